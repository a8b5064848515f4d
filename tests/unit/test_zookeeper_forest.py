"""The order in which trees are notified, on a connection that the test plays."""

from __future__ import annotations

import asyncio
import struct

import pytest

from nodelaunch.errors import VersionConflictError
from nodelaunch.protocol.store import Changed, Create, Entry, Put, Removed, Stat, TreeEvent
from nodelaunch.store.zookeeper.forest import EncodedWrite, Forest, OwnWrite
from nodelaunch.store.zookeeper.tree import ZkTree
from nodelaunch.store.zookeeper.wire import EVENT_CHANGED, EVENT_CREATED, EVENT_DELETED, OP_GET, PlainOp


class Connection:
    """Stands in for the session: requests are kept, and answered when the test says so."""

    is_connected = True

    def __init__(self) -> None:
        self.reads: list[tuple[object, object]] = []

    def send(self, _name: str, opcode: int, _body: bytes, on_reply: object, context: object) -> None:
        if opcode == OP_GET:
            self.reads.append((on_reply, context))
        else:
            on_reply(context, 0, 0, struct.pack("!i68x", 0), 0)  # type: ignore[operator]

    def answer_read(self, data: bytes, zxid: int) -> None:
        on_reply, context = self.reads.pop(0)
        stat = struct.pack("!qqqqiiiqiiq", 1, zxid, 0, 0, 0, 0, 0, 0, len(data), 0, 0)
        on_reply(context, 0, zxid, struct.pack("!i", len(data)) + data + stat, 0)  # type: ignore[operator]


def stat_of(zxid: int) -> Stat:
    return Stat(0, 1, zxid, 0.0, 0.0)


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
async def forest(connection: Connection) -> Forest:
    return Forest(connection, "")  # type: ignore[arg-type]


@pytest.fixture
async def tree(forest: Forest) -> ZkTree:
    made = ZkTree("/t", wants_data=lambda path: "lock" not in path, may_lag=lambda _path: False, keeps_data=True)
    forest.add(made)
    assert made.is_synced
    return made


def write_of(*ops: PlainOp) -> OwnWrite:
    return OwnWrite(EncodedWrite(ops, 0, b"", 1), asyncio.get_running_loop().create_future())


def settle(forest: Forest, write: OwnWrite, *results: Entry) -> None:
    write.results = list(results)
    forest.settle(write)


async def test_peers_write_after_ours_is_not_told_in_the_place_of_an_earlier_one(
    forest: Forest, connection: Connection, tree: ZkTree
) -> None:
    """A numbered create is under way when our own write to another znode is answered, and a peer writes that next."""
    create, put = write_of(Create("/t/", sequence=True)), write_of(Put("/t/0000000001", b"ours"))
    forest.expect(put)
    forest.expect(create)
    forest.on_event(EVENT_CREATED, "/t/0000000002")  # a peer's, taken for ours
    forest.on_event(EVENT_CHANGED, "/t/0000000001")
    settle(forest, put, Entry("/t/0000000001", b"ours", stat_of(5)))
    forest.on_event(EVENT_CHANGED, "/t/0000000001")
    forest.on_event(EVENT_CREATED, "/t/0000000003")
    settle(forest, create, Entry("/t/0000000003", b"made", stat_of(7)))
    for data, zxid in ((b"peer's", 6), (b"peer's", 6), (b"made", 7), (b"made", 7), (b"made", 7)):
        if connection.reads:
            connection.answer_read(data, zxid)
    assert not connection.reads
    found = tree.get("/t/0000000001")
    assert found is not None
    assert found.data == b"peer's"
    assert create.future.done()
    assert put.future.done()


async def test_unlocking_is_told_after_what_was_written_under_the_lock(
    forest: Forest, connection: Connection, tree: ZkTree
) -> None:
    told: list[TreeEvent] = []
    forest.on_event(EVENT_CREATED, "/t/n")
    connection.answer_read(b"0", 2)
    forest.on_event(EVENT_CREATED, "/t/n/lock")
    forest.on_event(EVENT_CREATED, "/t/n/lock/a")
    tree.subscribe(told.append)
    forest.on_event(EVENT_CHANGED, "/t/n")
    forest.on_event(EVENT_DELETED, "/t/n/lock/a")
    assert told == []
    connection.answer_read(b"1", 3)
    assert [type(event) for event in told] == [Changed, Removed]


async def test_own_write_without_a_tree_is_answered_at_once(forest: Forest) -> None:
    write = write_of(Put("/elsewhere", b"x"))
    forest.expect(write)
    settle(forest, write, Entry("/elsewhere", b"x", stat_of(2)))
    assert write.future.done()
    assert not forest._own


async def test_event_of_a_peer_taken_for_a_failed_write_of_ours_is_read(
    forest: Forest, connection: Connection, tree: ZkTree
) -> None:
    forest.on_event(EVENT_CREATED, "/t/n")
    connection.answer_read(b"0", 2)
    write = write_of(Put("/t/n", b"ours", 0))
    forest.expect(write)
    forest.on_event(EVENT_CHANGED, "/t/n")
    write.error = VersionConflictError("/t/n")
    settle(forest, write)
    assert not write.future.done()
    connection.answer_read(b"peer's", 3)
    assert isinstance(write.future.exception(), VersionConflictError)
    found = tree.get("/t/n")
    assert found is not None
    assert found.data == b"peer's"


async def test_broken_connection_answers_what_was_done_and_leaves_nothing_in_line(
    forest: Forest, connection: Connection, tree: ZkTree
) -> None:
    forest.on_event(EVENT_CREATED, "/t/n")
    write = write_of(Put("/t/m", b"ours"))
    forest.expect(write)
    settle(forest, write, Entry("/t/m", b"ours", stat_of(3)))
    assert not write.future.done()
    forest.on_suspended()
    assert write.future.done()
    assert not tree.is_synced
    assert not forest._line
