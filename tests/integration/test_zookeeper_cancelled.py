"""A caller that is cancelled while its lock is taken leaves no contender, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from nodelaunch.protocol.store import Put, TakeLock
from nodelaunch.store.zookeeper.forest import Forest
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from nodelaunch.store.zookeeper.writes import Writer
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper
DEADLINE_S = 60.0


@pytest.fixture
async def store(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    servers = [("127.0.0.1", zookeeper_server.port)]
    async with asyncio.timeout(DEADLINE_S):
        async with ZooKeeperStore(servers, chroot=zk_chroot, session_timeout_s=20.0) as opened:
            await opened.ensure("/n", "/numbered")
            yield opened


TAKING: dict[str, Callable[[ZooKeeperStore], Awaitable[Any]]] = {
    "lock": lambda store: store.lock("/n/lock"),
    "transaction": lambda store: store.commit([TakeLock("/n/lock"), Put("/n", b"written")]),
}


@pytest.mark.parametrize("how", TAKING)
@pytest.mark.parametrize(
    ("home", "step"),
    [(Forest, "settle"), (Forest, "_finish"), (Writer, "_done")],
    ids=["before its trees are told", "when it is answered", "when the reply comes"],
)
@pytest.mark.parametrize("is_before", [True, False])
async def test_cancelled_lock_leaves_no_contender(
    store: ZooKeeperStore, monkeypatch: pytest.MonkeyPatch, how: str, home: type, step: str, is_before: bool
) -> None:
    real = getattr(home, step)

    def cancels(self: object, write: Any) -> None:
        is_its_own = write.order.contender.startswith("/n/lock")
        if is_its_own and is_before:
            taking.cancel()
        real(self, write)
        if is_its_own:
            taking.cancel()

    monkeypatch.setattr(home, step, cancels)
    taking: asyncio.Future[Any] = asyncio.ensure_future(TAKING[how](store))
    with pytest.raises(asyncio.CancelledError):
        await taking
    monkeypatch.undo()
    await store.create("/later")  # what is under way is done by now
    assert await store.contenders("/n/lock") == []


@pytest.mark.parametrize("how", TAKING)
@pytest.mark.parametrize("turns", range(8))
async def test_lock_cancelled_twice_leaves_no_contender(store: ZooKeeperStore, how: str, turns: int) -> None:
    taking: asyncio.Future[Any] = asyncio.ensure_future(TAKING[how](store))
    for _ in range(turns):
        await asyncio.sleep(0)
    taking.cancel()
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking])
    if not taking.cancelled():
        pytest.skip("it was done before it could be cancelled")
    await store.create("/later")
    await store.create("/later-still")
    assert await store.contenders("/n/lock") == []
