"""Troubles of servers and networks that the ZooKeeper store gets over, or says clearly that it can't."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE
from structlog.testing import capture_logs

from conformance.store_suite import until
from nodelaunch.errors import SessionLostError, StoreError, StoreUnavailableError
from nodelaunch.protocol.store import Create, Entry, Put, SessionState, TakeLock
from nodelaunch.store.zookeeper.forest import OwnWrite
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from support.certificates import Certificates
from support.zookeeper import Proxy, ZooKeeperServer

pytestmark = pytest.mark.zookeeper
DEADLINE_S = 20.0
OP_SET, OP_MULTI, OP_CREATE2 = 5, 14, 15


@pytest.fixture
def kazoo(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> Iterator[KazooClient]:
    client = zookeeper_server.kazoo(zk_chroot)
    yield client
    client.stop()
    client.close()


@pytest.fixture
async def proxy(zookeeper_server: ZooKeeperServer) -> AsyncIterator[Proxy]:
    async with Proxy(zookeeper_server.port) as made:
        yield made


@pytest.fixture
async def store(proxy: Proxy, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    async with ZooKeeperStore([("127.0.0.1", proxy.port)], chroot=zk_chroot, session_timeout_s=10.0) as opened:
        yield opened


# -- writes in doubt ------------------------------------------------------------------------------------------------


async def test_creates_in_doubt_are_found_without_reading_what_is_older(store: ZooKeeperStore, proxy: Proxy) -> None:
    await store.ensure("/n")
    await asyncio.gather(*(store.create("/n/", b"old", sequence=True) for _ in range(600)))
    before = store.operations["get"]
    creates = iter([False] * 20 + [True])
    proxy.on_request = lambda _xid, opcode: opcode == OP_CREATE2 and next(creates, False)
    async with asyncio.timeout(DEADLINE_S):
        made = await asyncio.gather(*(store.create("/n/", b"%d" % n, sequence=True) for n in range(40)))
    assert [entry.data for entry in made] == [b"%d" % n for n in range(40)]
    assert len({entry.path for entry in made}) == 40
    assert len(await store.children("/n")) == 640
    assert store.operations["get"] - before <= 200
    assert store.session.epoch == 1


async def test_packet_larger_than_servers_take_is_refused_before_it_is_sent(store: ZooKeeperStore) -> None:
    await asyncio.gather(*(store.create(f"/m{n}") for n in range(3)))
    before = store.operations
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(StoreError, match=r"jute\.maxbuffer"):
            await store.create("/big", bytes((1 << 20) - 6))
        with pytest.raises(StoreError, match=r"jute\.maxbuffer"):
            await store.commit([Put(f"/m{n}", bytes(400_000)) for n in range(3)])
    assert store.operations == before
    assert store.session.state is SessionState.CONNECTED


async def test_write_under_which_the_connection_always_breaks_is_given_up(store: ZooKeeperStore, proxy: Proxy) -> None:
    await store.create("/a", b"0")
    broken = []
    pass_on = proxy.on_request

    def cut_before(xid: int, opcode: int) -> bool:
        if opcode == OP_SET:
            broken.append(xid)
            proxy.cut()
        return pass_on(xid, opcode)

    proxy.on_request = cut_before
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(StoreUnavailableError, match="broke 3 times"):
            await store.put("/a", b"1", version=0)
        assert (await store.get("/a")).data == b"0"
        assert (await store.create("/b", b"well")).path == "/b"
    assert len(broken) == 3


# -- servers --------------------------------------------------------------------------------------------------------


async def test_every_address_of_a_host_name_is_tried(
    zookeeper_server: ZooKeeperServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address of the name swallows what is sent to it, as a host that is off does."""
    port, real = zookeeper_server.port, socket.getaddrinfo

    def lookup(host: str, *args: object, **more: object) -> object:
        if host == "zk.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("127.0.0.9", "127.0.0.1")]
        return real(host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with socket.socket() as hole:
        hole.bind(("127.0.0.9", port))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.9", port))
        try:
            async with asyncio.timeout(DEADLINE_S):
                async with ZooKeeperStore([("zk.example", port)], session_timeout_s=6.0) as store:
                    assert store.session.epoch == 1
        finally:
            for filler in fillers:
                filler.close()


async def test_server_that_fell_silent_is_asked_last(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(zookeeper_server.port)) for _ in range(3)]
        servers = [("127.0.0.1", proxy.port) for proxy in proxies]
        monkeypatch.setattr(random, "sample", lambda servers, _count: list(servers))
        store = ZooKeeperStore(servers, chroot=zk_chroot, session_timeout_s=3.0)
        async with store, asyncio.timeout(DEADLINE_S):
            lock = await store.lock("/l/lock", parents=True)
            seen: list[SessionState] = []
            store.session.subscribe(seen.append)
            proxies[0].passing.clear()
            while SessionState.CONNECTED not in seen:
                await store.session.changed()
            assert lock.is_held
            await store.put("/l", b"still ours", under=(lock,))
            assert SessionState.LOST not in seen
            proxies[0].passing.set()


async def test_session_outlives_an_unforeseen_exception(
    store: ZooKeeperStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([True])
    greet = store.session._greet

    async def fail_once(connection: object) -> None:
        if next(failures, False):
            raise RuntimeError("unforeseen")
        await greet(connection)  # type: ignore[arg-type]

    monkeypatch.setattr(store.session, "_greet", fail_once)
    store.session.use_servers([("127.0.0.1", proxy.port), ("zk..no-such-name", 2181)])
    proxy.cut()
    async with asyncio.timeout(DEADLINE_S):
        while store.session.state is SessionState.CONNECTED:
            await store.session.changed()
        await store.session.connected()
        assert (await store.create("/a")).path == "/a"
    assert next(failures, None) is None


async def test_wiped_zookeeper_gets_a_new_session_and_its_chroot(certificates: Certificates, tmp_path: Path) -> None:
    server = ZooKeeperServer(tmp_path, certificates)
    await asyncio.to_thread(server.start)
    try:
        async with ZooKeeperStore([("127.0.0.1", server.port)], chroot="/zuul", session_timeout_s=2.0) as store:
            await store.ensure("/t")
            for _ in range(50):
                await store.create("/t/", b"before", sequence=True)
            async with store.tree("/t") as tree:
                await tree.synced()
                server.kill()
                shutil.rmtree(server.data_folder)
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(DEADLINE_S):
                    while store.session.epoch == 1:
                        await store.session.changed()
                    assert (await store.create("/t/0000000000", b"after", parents=True)).path == "/t/0000000000"
                    await until(tree, lambda: tree.is_synced)
                assert [(entry.path, entry.data) for entry in tree.entries()] == [("/t/0000000000", b"after")]
    finally:
        server.kill()


async def test_deleted_chroot_is_made_again(store: ZooKeeperStore, zookeeper_server: ZooKeeperServer) -> None:
    async with ZooKeeperStore([("127.0.0.1", zookeeper_server.port)]) as root, asyncio.timeout(DEADLINE_S):
        await store.create("/a/b", parents=True)
        await root.delete_tree(store._chroot)
        await store.ensure("/a")
        await root.delete_tree(store._chroot)
        assert (await store.create("/a/b", b"x", parents=True)).data == b"x"


async def test_chroot_is_made_though_the_connection_breaks_before_it_was(proxy: Proxy, zk_chroot: str) -> None:
    breaks = iter([True])

    def on_request(_xid: int, opcode: int) -> bool:
        if opcode == OP_CREATE2 and next(breaks, False):
            proxy.cut()  # the server never gets it
        return False

    proxy.on_request = on_request
    with capture_logs() as logs:
        async with (
            asyncio.timeout(DEADLINE_S),
            ZooKeeperStore([("127.0.0.1", proxy.port)], chroot=zk_chroot, session_timeout_s=10.0) as store,
        ):
            assert store.session.epoch == 1
            assert (await store.create("/a", b"x")).data == b"x"
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


# -- trees ----------------------------------------------------------------------------------------------------------


async def test_tree_that_may_not_read_all_is_not_warm_until_it_may(store: ZooKeeperStore, kazoo: KazooClient) -> None:
    kazoo.add_auth("digest", "somebody:secret")
    kazoo.create("/t")
    kazoo.create("/t/open", b"1")
    kazoo.create("/t/closed", b"2", acl=CREATOR_ALL_ACL)
    async with store.tree("/t") as tree:
        await until(tree, lambda: tree.get("/t/open") is not None)
        while tree.retry is None:  # type: ignore[attr-defined]
            await store.get("/t")
        assert not tree.is_synced
        kazoo.set_acls("/t/closed", OPEN_ACL_UNSAFE)
        async with asyncio.timeout(DEADLINE_S):
            await tree.synced()
        found = tree.get("/t/closed")
        assert found is not None
        assert found.data == b"2"


async def test_listener_that_fails_harms_nobody_else(store: ZooKeeperStore) -> None:
    await store.ensure("/t")
    told: list[object] = []

    def fail(_event: object) -> None:
        raise RuntimeError("a bug of the listener's")

    async with store.tree("/t") as tree:
        await tree.synced()
        tree.subscribe(fail)
        tree.subscribe(told.append)
        await store.create("/t/a")
        assert len(told) == 1
    assert store.session.state is SessionState.CONNECTED


async def test_session_that_may_be_over_is_no_session(store: ZooKeeperStore) -> None:
    """After a process was stopped for long, its first task to run may ask for a new session after each loss.
    Without this rule it would ask for ever: no other task would get a turn to learn of the loss.
    """
    session = store.session
    epoch = session.epoch
    session._heard_at -= 60.0
    async with asyncio.timeout(DEADLINE_S):
        assert await session.connected() > epoch
        await store.ensure("/a")


async def test_lock_of_a_session_that_ends_before_its_taker_goes_on_is_lost(store: ZooKeeperStore) -> None:
    """The answer and the end of the session may come in one turn of the loop, where the process was stopped."""
    await store.ensure("/l", "/n")
    await store.create("/n/", sequence=True)
    forest, settle = store._forest, store._forest.settle

    def settle_and_lose(write: OwnWrite) -> None:
        settle(write)
        store.session._lose("the process was stopped")

    for take in (
        lambda: store.commit([TakeLock("/l/lock")]),
        lambda: store.create_locked("/n/", b""),
        lambda: store.lock("/l/other"),
    ):
        forest.settle = settle_and_lose
        try:
            async with asyncio.timeout(DEADLINE_S):
                taken = await take()
        except SessionLostError:
            taken = []
        forest.settle = settle
        async with asyncio.timeout(DEADLINE_S):
            await store.session.connected()
        for lock in filter(None, taken if isinstance(taken, (list, tuple)) else [taken]):
            assert isinstance(lock, Entry) or not lock.is_held


# -- numbers foreseen -----------------------------------------------------------------------------------------------


@pytest.fixture
async def numbered(store: ZooKeeperStore) -> AsyncIterator[ZooKeeperStore]:
    """Yield a store with a tree on ``/n``, in which two znodes were made and one of them deleted before."""
    await store.ensure("/n")
    await store.create("/n/", sequence=True)
    await store.delete((await store.create("/n/", sequence=True)).path)
    async with store.tree("/n") as tree:
        await tree.synced()
        yield store


def name(number: int) -> str:
    return f"/n/{number:010d}"


async def test_created_and_locked_in_one_transaction_with_the_numbers_that_the_server_gives(
    numbered: ZooKeeperStore, kazoo: KazooClient
) -> None:
    before = numbered.operations.get("commit", 0)
    made = await asyncio.gather(*(numbered.create_locked("/n/", b"%d" % n) for n in range(3)))
    assert numbered.operations["commit"] - before == 3
    assert [(entry.path, lock.is_held) for entry, lock in filter(None, made)] == [(name(n), True) for n in (2, 3, 4)]
    assert (await numbered.create("/n/", sequence=True)).path == name(5)
    for entry, lock in filter(None, made):
        assert [lock.contender] == await numbered.contenders(f"{entry.path}/lock")
        await lock.release()
    assert await asyncio.to_thread(kazoo.create, "/n/", sequence=True) == name(6)


async def test_creates_within_transactions_count(numbered: ZooKeeperStore) -> None:
    await numbered.create("/t")
    made, _ = await numbered.commit([Create("/n/", sequence=True), Put("/t", b"")])
    assert isinstance(made, Entry)
    assert made.path == name(2)
    await numbered.delete(name(2))
    entry, _ = await numbered.create_locked("/n/", b"") or (None, None)
    assert entry is not None and entry.path == name(3)  # noqa: PT018


async def test_a_cancelled_create_counts(numbered: ZooKeeperStore) -> None:
    creating = [asyncio.ensure_future(numbered.create("/n/", sequence=True)) for _ in range(2)]
    await asyncio.sleep(0)
    creating[1].cancel()
    assert (await creating[0]).path == name(2)
    await numbered.get(name(3))  # no call waited for it, and it is there
    await numbered.delete(name(3))
    made = await numbered.create_locked("/n/", b"")
    assert made is None or made[0].path == name(4)


async def test_nothing_is_foreseen_once_somebody_else_creates(numbered: ZooKeeperStore, kazoo: KazooClient) -> None:
    assert await asyncio.to_thread(kazoo.create, "/n/", sequence=True) == name(2)
    await numbered.get(name(2))  # the event comes before the answer
    assert await numbered.create_locked("/n/", b"") is None
    assert await asyncio.to_thread(kazoo.create, "/n/", sequence=True) == name(3)
    assert (await numbered.create("/n/", sequence=True)).path == name(4)
    entry, _ = await numbered.create_locked("/n/", b"") or (None, None)
    assert entry is not None and entry.path == name(5)  # noqa: PT018


async def test_a_node_made_before_the_connection_broke_is_found(numbered: ZooKeeperStore, proxy: Proxy) -> None:
    cuts = iter([True])
    proxy.on_request = lambda _xid, opcode: opcode == OP_MULTI and next(cuts, False)
    async with asyncio.timeout(DEADLINE_S):
        entry, lock = await numbered.create_locked("/n/", b"ours") or (None, None)
    assert entry is not None and lock is not None  # noqa: PT018
    assert (entry.path, entry.data, lock.is_held) == (name(2), b"ours", True)


async def test_a_foreseen_number_does_not_outlive_the_connection(
    numbered: ZooKeeperStore, proxy: Proxy, kazoo: KazooClient
) -> None:
    """Creates that failed with the connection are not sent again: meanwhile the number may have been used and
    removed.
    """
    proxy.passing.clear()
    making = asyncio.ensure_future(numbered.create_locked("/n/", b""))
    await asyncio.sleep(0)
    proxy.cut()
    await asyncio.to_thread(kazoo.delete, await asyncio.to_thread(kazoo.create, "/n/", sequence=True))
    proxy.passing.set()
    async with asyncio.timeout(DEADLINE_S):
        assert await making is None
        assert (await numbered.create("/n/", sequence=True)).path == name(3)
