"""The socket of the embedded store with clients that do what they should not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.protocol.store import Create, ReleaseLock, TakeLock
from nodelaunch.store.embedded import socket
from nodelaunch.store.embedded.socket import SocketStore, StoreServer
from nodelaunch.store.embedded.store import EmbeddedStore

DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
def _all_levels() -> None:
    """Warnings can be captured."""
    structlog.reset_defaults()


@pytest.fixture
async def owner() -> AsyncIterator[EmbeddedStore]:
    async with asyncio.timeout(DEADLINE_S * 2), EmbeddedStore(None) as store:
        await store.ensure("/n")
        yield store


@pytest.fixture
async def path(owner: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Path]:
    async with StoreServer(owner, tmp_path / "store.sock"):
        yield tmp_path / "store.sock"


async def greeted(path: Path, *messages: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which *messages* were sent, and the greeting was read."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    for message in ({"version": socket.VERSION}, *messages):
        writer.write(json.dumps(message).encode() + b"\n")
    assert json.loads(await reader.readline()) == {"version": socket.VERSION}
    return reader, writer


async def test_only_its_owner_may_connect(path: Path) -> None:
    assert oct(path.stat().st_mode & 0o777) == oct(0o600)


async def test_client_that_does_not_read_is_dropped(
    owner: EmbeddedStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "MAX_UNREAD", 1 << 20)
    reader, writer = await greeted(path, {"id": 1, "call": "tree", "args": {"tree": 1, "root": "/n"}})
    assert json.loads(await reader.readline()) == {"id": 1, "result": []}
    writer.transport.pause_reading()
    with capture_logs() as logs:
        for _ in range(400):
            await owner.create("/n/x", b"d" * 20_000, sequence=True)
            await asyncio.sleep(0)
    assert [(log["event"], log["error"]) for log in logs] == [("store_client_dropped", "unread")]
    writer.close()


@pytest.mark.parametrize(
    "op",
    [
        {"op": "delete", "path": 5, "version": -1},
        {"op": "delete", "path": "n", "version": -1},
        {"op": "put", "path": "/n", "data": 7, "version": -1},
        {"op": "create", "path": "/n/x"},
        {"op": "nonsense", "path": "/n"},
        [],
    ],
)
async def test_malformed_operation_costs_its_sender_only(owner: EmbeddedStore, path: Path, op: object) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
    with capture_logs() as logs:
        reader, writer = await greeted(path, {"id": 1, "call": "commit", "args": {"ops": [op], "under": []}})
        assert await reader.read() == b""  # hung up
        await owner.put("/n", b"1")
        writer.close()
        await asyncio.sleep(0)
    assert problems == []
    assert {log["event"] for log in logs} == {"store_client_dropped"}
    async with SocketStore(path) as client:
        assert (await client.get("/n")).data == b"1"


async def test_path_that_is_no_text_is_refused(path: Path) -> None:
    create = {"op": "create", "path": "/n/\ud800", "data": "", "ephemeral": False, "sequence": False}
    reader, writer = await greeted(path, {"id": 1, "call": "commit", "args": {"ops": [create], "under": []}})
    assert json.loads(await reader.readline())["error"] == "StoreError"
    writer.close()


async def test_connection_keeps_nothing_of_what_is_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    init = socket._Connection.__init__

    def spy(self: Any, *args: Any) -> None:
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(socket._Connection, "__init__", spy)
    async with SocketStore(path) as client:
        for _ in range(20):
            await client.get_many(["/n"])
            lock, _ = await client.commit([TakeLock("/n/lock"), Create("/n/", sequence=True)])
            await client.commit([ReleaseLock(lock)])  # type: ignore[arg-type]
            await (await client.lock("/n/lock")).release()
        (connection,) = made
        assert (connection._granted, connection._locks, connection._calls) == ({}, {}, {})


async def test_tree_larger_than_a_line_is_handed_over(owner: EmbeddedStore, path: Path) -> None:
    for _ in range(12):
        await owner.create("/n/x", b"d" * 500_000, sequence=True)
    async with SocketStore(path) as client, client.tree("/n") as tree:
        await tree.synced()
        assert len(tree.children("/n")) == 12
