"""The ZooKeeper store keeps the port's promises, over mutual TLS and below a chroot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from conformance.store_suite import DEADLINE_S, StoreContract, until
from nodelaunch.errors import LockBusyError
from nodelaunch.protocol.store import Changed, Create, Delete, Entry, Put, ReleaseLock, Removed, TakeLock, TreeEvent
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper


def connect(server: ZooKeeperServer, chroot: str) -> ZooKeeperStore:
    tls = server.certificates.client
    return ZooKeeperStore([(server.host, server.tls_port)], chroot=chroot, tls=tls, session_timeout_s=4.0)


@pytest.fixture
async def store(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    async with connect(zookeeper_server, zk_chroot) as opened:
        yield opened


@pytest.fixture
async def other(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    async with connect(zookeeper_server, zk_chroot) as opened:
        yield opened


class TestZooKeeperStore(StoreContract):
    pass


def is_node(path: str) -> bool:
    return path.count("/") == 2


def told(events: list[TreeEvent]) -> list[tuple[str, bytes | None]]:
    return [
        (event.entry.path, event.entry.data if isinstance(event, Changed) else None)
        for event in events
        if isinstance(event, Changed | Removed)
    ]


# -- records --------------------------------------------------------------------------------------------------------


async def test_record_is_handed_on_in_results_and_to_trees(store: ZooKeeperStore) -> None:
    await store.ensure("/t")
    made, changed = object(), object()
    records: list[object] = []

    def note(event: TreeEvent) -> None:
        if isinstance(event, Changed):
            records.append(event.entry.record)

    async with store.tree("/t") as tree:
        await tree.synced()
        tree.subscribe(note)
        (entry,) = await store.commit([Create("/t/n", b"1", sequence=True, record=made)])
        assert isinstance(entry, Entry)
        _, put = await store.commit([Create("/t/x"), Put(entry.path, b"2", record=changed)])
        assert isinstance(put, Entry)
        assert (entry.record, put.record) == (made, changed)
        assert records == [made, None, changed]
        assert store.operations.get("get", 0) <= 1  # of the chroot, at the beginning
        assert (await store.get(entry.path)).record is None


async def test_tree_that_keeps_no_data_tells_it_in_events(store: ZooKeeperStore, other: ZooKeeperStore) -> None:
    await store.create("/t/a", b"1", parents=True)
    events: list[TreeEvent] = []
    async with store.tree("/t", keeps_data=False) as tree:
        tree.subscribe(events.append)
        await tree.synced()
        record = object()
        await store.commit([Put("/t/a", b"2", record=record)])
        await other.put("/t/a", b"3")
        await until(tree, lambda: ("/t/a", b"3") in told(events))
        assert told(events) == [("/t/a", b"1"), ("/t/a", b"2"), ("/t/a", b"3")]
        kept = tree.get("/t/a")
        assert kept is not None
        assert (kept.data, kept.record, kept.stat.version) == (b"", None, 2)
    changes = [event for event in events if isinstance(event, Changed)]
    assert changes[1].entry.record is record
    assert changes[2].old is not None
    assert (changes[2].old.data, changes[2].old.record) == (b"", None)


# -- trees that lag -------------------------------------------------------------------------------------------------


async def test_lagging_changes_are_told_as_one_before_what_comes_below(
    store: ZooKeeperStore, other: ZooKeeperStore
) -> None:
    await store.create("/t/n", b"0", parents=True)
    events: list[TreeEvent] = []
    async with store.tree("/t", wants_data=is_node, may_lag=lambda _path: True) as tree:
        await tree.synced()
        lock = await other.lock("/t/n/lock")
        await until(tree, lambda: len(tree.children("/t/n/lock")) == 1)
        tree.subscribe(events.append)
        before = store.operations["get"]
        for number in range(1, 5):
            await other.put("/t/n", b"%d" % number)
        await lock.release()
        await until(tree, lambda: not tree.children("/t/n/lock"))
        assert told(events) == [("/t/n", b"4"), (lock.contender, None)]
        assert store.operations["get"] == before + 1


async def test_lagging_change_is_told_in_time_though_nothing_follows(
    store: ZooKeeperStore, other: ZooKeeperStore
) -> None:
    await store.create("/t/n", b"0", parents=True)
    async with store.tree("/t", may_lag=lambda _path: True) as tree:
        await tree.synced()
        before = store.operations["get"]
        await other.put("/t/n", b"1")
        await other.put("/t/n", b"2")
        await until(tree, lambda: (found := tree.get("/t/n")) is not None and found.data == b"2")
        assert store.operations["get"] == before + 1


async def test_lagging_change_is_told_with_the_next_answer_when_it_is_hurried(
    store: ZooKeeperStore, other: ZooKeeperStore
) -> None:
    await store.create("/t/n", b"0", parents=True)
    await store.create("/elsewhere")
    async with store.tree("/t", wants_data=is_node, may_lag=lambda _path: True) as tree:
        await tree.synced()
        await other.commit([TakeLock("/t/n/lock"), Put("/t/n", b"1")])
        await store.get("/elsewhere")
        found = tree.get("/t/n")
        assert found is not None
        assert found.data == b"0"
        tree.hurry()
        await store.get("/elsewhere")
        found = tree.get("/t/n")
        assert found is not None
        assert found.data == b"1"


async def test_lagging_change_of_a_deleted_znode_is_not_read(store: ZooKeeperStore, other: ZooKeeperStore) -> None:
    await store.create("/t/n", b"0", parents=True)
    async with store.tree("/t", may_lag=lambda _path: True) as tree:
        await tree.synced()
        before = store.operations["get"]
        await other.put("/t/n", b"1")
        await other.delete("/t/n")
        await until(tree, lambda: tree.get("/t/n") is None)
        assert store.operations["get"] == before
        await store.create("/t/n", b"2")
        found = tree.get("/t/n")
        assert found is not None
        assert found.data == b"2"


# -- what calls cost ------------------------------------------------------------------------------------------------


async def test_lock_is_taken_in_one_operation_whether_its_directory_exists_or_not(store: ZooKeeperStore) -> None:
    await store.create("/t/n", b"0", parents=True)
    async with store.tree("/t", wants_data=is_node) as tree:
        await tree.synced()
        for version in range(4):
            before = sum(store.operations.values())
            lock, _ = await store.commit([TakeLock("/t/n/lock"), Put("/t/n", b"x", version)])
            assert lock is not None
            assert not isinstance(lock, Entry)
            assert sum(store.operations.values()) == before + 1
            await lock.release()
    for _ in range(2):  # a call without a watch notices by its first try
        before = store.operations["commit"]
        lock, _ = await store.commit([TakeLock("/t/n/lock"), Put("/t/n", b"x")])
        assert lock is not None
        assert not isinstance(lock, Entry)
        assert store.operations["commit"] == before + 2
        with pytest.raises(LockBusyError):
            await store.commit([TakeLock("/t/n/lock"), Put("/t/n", b"y")])
        await lock.release()


async def test_lock_and_its_directory_go_with_what_they_protect(store: ZooKeeperStore, other: ZooKeeperStore) -> None:
    await store.create("/t/n", b"0", parents=True)
    lock, _ = await store.commit([TakeLock("/t/n/lock"), Put("/t/n", b"1")])
    assert lock is not None
    assert not isinstance(lock, Entry)
    await store.commit([ReleaseLock(lock), Delete("/t/n/lock"), Delete("/t/n")])
    assert await other.get_many(["/t/n"]) == [None]
    assert not lock.is_held


async def test_cancelled_transaction_leaves_no_contender(store: ZooKeeperStore) -> None:
    await store.create("/t/n", b"0", parents=True)
    async with store.tree("/t") as tree:
        await tree.synced()
        task = asyncio.ensure_future(store.commit([TakeLock("/t/n/lock"), Put("/t/n", b"1")]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(tree, lambda: (found := tree.get("/t/n")) is not None and found.data == b"1")
        await until(tree, lambda: not tree.children("/t/n/lock"))


async def test_walk_reads_each_znode_once_in_a_window_and_lists_no_leaves(
    store: ZooKeeperStore, other: ZooKeeperStore
) -> None:
    await other.ensure("/t")
    count = 1500
    await asyncio.gather(*(other.create("/t/", b"x", sequence=True) for _ in range(count)))
    await other.create("/t/0000000007/lock/a", parents=True)
    connection = store.session.connection
    assert connection is not None
    in_flight = 0
    send = connection.send

    def watched(*args: object) -> None:
        nonlocal in_flight
        send(*args)  # type: ignore[arg-type]
        in_flight = max(in_flight, len(connection._waiting))

    connection.send = watched  # type: ignore[method-assign]
    before = store.operations
    async with store.tree("/t", wants_data=is_node) as tree:
        async with asyncio.timeout(DEADLINE_S):
            await tree.synced()
        sent = {kind: number - before.get(kind, 0) for kind, number in store.operations.items()}
        assert len(list(tree.entries())) == count + 2
    assert (sent["get"], sent["children"], sent["watch"]) == (count, 4, 1)
    assert in_flight <= 510


async def test_tree_keeps_nothing_of_what_is_gone(store: ZooKeeperStore) -> None:
    await store.ensure("/t")
    async with store.tree("/t", wants_data=is_node) as tree:
        await tree.synced()
        for _ in range(20):
            node = await store.create("/t/", b"x", sequence=True)
            lock, _ = await store.commit([TakeLock(f"{node.path}/lock"), Put(node.path, b"y")])
            assert lock is not None
            assert not isinstance(lock, Entry)
            await store.commit([ReleaseLock(lock), Delete(lock.path), Delete(node.path)])
        assert not tree._entries  # type: ignore[attr-defined]
        assert not tree._children  # type: ignore[attr-defined]
        assert not store._forest._own
        assert not store._locks._held
