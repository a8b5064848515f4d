"""Locks taken in transactions, with kazoo peers contending at the same moment: never two owners, no failures."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from kazoo.client import KazooClient

from nodelaunch.errors import LockBusyError
from nodelaunch.protocol.store import Entry, Lock, Put, TakeLock
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper
ROUNDS = 100
PEERS = 3
DEADLINE_S = 120.0


@pytest.fixture
async def store(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    servers = [("127.0.0.1", zookeeper_server.port)]
    async with ZooKeeperStore(servers, chroot=zk_chroot, session_timeout_s=20.0) as opened:
        await opened.ensure("/n")
        yield opened


class Record:
    """Owner of the lock, as all tasks in this process see it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._holder = ""
        self.overlaps: list[tuple[str, str]] = []
        self.errors: list[str] = []
        self.taken: Counter[str] = Counter()
        self.is_over = threading.Event()

    def enter(self, who: str) -> None:
        with self._mutex:
            if self._holder:
                self.overlaps.append((self._holder, who))
            self._holder = who
            self.taken[who] += 1

    def leave(self) -> None:
        with self._mutex:
            self._holder = ""


def contend(client: KazooClient, who: str, record: Record, *, blocking: bool) -> None:
    """Take the lock and give it back, as a plain kazoo peer, with a new lock object each time as Zuul does."""
    while not record.is_over.is_set():
        try:
            lock = client.Lock("/n/lock", who)
            if lock.acquire(blocking=blocking, timeout=DEADLINE_S if blocking else None):
                record.enter(who)
                record.leave()
                lock.release()
            record.is_over.wait(0.001)
        except Exception as error:
            record.errors.append(repr(error))


@pytest.mark.parametrize("blocking", [True, False])
async def test_exchanged_directory_excludes_kazoo_and_breaks_none(
    store: ZooKeeperStore, zookeeper_server: ZooKeeperServer, zk_chroot: str, *, blocking: bool
) -> None:
    """The directory is deleted and created again with each of our locks, while peers ensure it and create in it."""
    clients = [await asyncio.to_thread(zookeeper_server.kazoo, zk_chroot) for _ in range(PEERS)]
    record = Record()
    threads = [
        threading.Thread(target=contend, args=(client, f"kazoo-{number}", record), kwargs={"blocking": blocking})
        for number, client in enumerate(clients)
    ]
    try:
        for thread in threads:
            thread.start()
        async with asyncio.timeout(DEADLINE_S), store.tree("/n", wants_data=lambda _path: False) as tree:
            await tree.synced()
            while record.taken["ours"] < ROUNDS:
                await take_and_release(store, record)
    finally:
        record.is_over.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        for client in clients:
            client.stop()
            client.close()
    assert not record.overlaps
    assert not record.errors
    assert all(record.taken[f"kazoo-{number}"] for number in range(PEERS))
    assert await store.contenders("/n/lock") == []


async def take_and_release(store: ZooKeeperStore, record: Record) -> None:
    """Try to take the lock once; where a peer contends, none of the operations may have been done."""
    version = (await store.get("/n")).stat.version
    try:
        lock, entry = await store.commit([TakeLock("/n/lock", b"ours"), Put("/n", b"x", version)])
    except LockBusyError:
        assert (await store.get("/n")).stat.version == version
        return
    record.enter("ours")
    assert isinstance(entry, Entry)
    assert (await store.get("/n")).stat.version == version + 1
    record.leave()
    held: Lock = lock  # type: ignore[assignment]
    await held.release()
