"""A pipelined ZooKeeper client for measuring: callbacks, one write per turn of the loop, no retries, no recovery."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from bench.zk import wire
from bench.zk.wire import Op

OnReply = Callable[[int, bytes, int], None]
"""Callback for a reply: error code (0: none), the bytes that contain it, and the offset of its body."""
OnEvent = Callable[[int, str], None]
"""Callback for an event: its kind and the path."""

SESSION_TIMEOUT_MS = 30_000
CONNECT_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 60.0
BATCH = 500
"""Pending operations of a bulk job at the same time."""


class ZkError(Exception):
    """An operation failed with ZooKeeper's *code*."""

    def __init__(self, code: int) -> None:
        super().__init__(f"ZooKeeper error {code}")
        self.code = code


def ignore(_error: int, _data: bytes, _at: int) -> None:
    """Ignore a reply."""


class Client(asyncio.Protocol):
    """A connection with its session; make it with `connected`."""

    def __init__(self) -> None:
        self.on_event: OnEvent = lambda _kind, _path: None
        self.is_lost = False
        self._loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._out: list[bytes] = []
        self._waiting: deque[OnReply] = deque()
        self._xid = 0
        self._pinger: asyncio.TimerHandle | None = None

    # -- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio.Transport
        self._write(wire.greeting(SESSION_TIMEOUT_MS))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        if self._pinger is not None:
            self._pinger.cancel()
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(f"ZooKeeper gave no session: {error}"))
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            on_reply(wire.CONNECTION_LOSS, b"", 0)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        unpack = wire.INT.unpack_from
        while size - at >= 4:
            end = at + 4 + unpack(data, at)[0]
            if end > size:
                break
            if self.greeted.done():
                self._take(data, at + 4)
            else:
                self._welcome(data, at + 4)
            at = end
        self._rest = data[at:] if at < size else b""

    def _welcome(self, data: bytes, at: int) -> None:
        timeout_s, _ = wire.read_welcome(data, at)
        self._ping(timeout_s / 3)
        self.greeted.set_result(None)

    def _take(self, data: bytes, at: int) -> None:
        xid, _, error = wire.HEADER.unpack_from(data, at)
        if xid > 0:
            self._waiting.popleft()(error, data, at + 16)
        elif xid == -1:
            (kind,) = wire.INT.unpack_from(data, at + 16)
            self.on_event(kind, wire.read_text(data, at + 24)[0])

    def _ping(self, pause_s: float) -> None:
        self._write(wire.REQUEST.pack(8, -2, wire.PING))
        self._pinger = self._loop.call_later(pause_s, self._ping, pause_s)

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.is_lost:
            self._transport.write(b"".join(out))

    # -- operations -------------------------------------------------------------------------------------------------

    def call(self, op: Op, on_reply: OnReply) -> None:
        """Send *op*; *on_reply* is called once, in the order of the calls."""
        if self.is_lost:
            self._loop.call_soon(on_reply, wire.CONNECTION_LOSS, b"", 0)
            return
        self._xid += 1
        self._waiting.append(on_reply)
        code, body = op
        self._write(wire.REQUEST.pack(len(body) + 8, self._xid, code) + body)

    def ask(self, op: Op) -> asyncio.Future[tuple[bytes, int]]:
        """Return the reply to *op*: the bytes that contain it and the offset of its body. Raises: ZkError."""
        answer: asyncio.Future[tuple[bytes, int]] = self._loop.create_future()

        def on_reply(error: int, data: bytes, at: int) -> None:
            if answer.done():
                return
            if error:
                answer.set_exception(ZkError(error))
            else:
                answer.set_result((data, at))

        self.call(op, on_reply)
        return answer

    async def ask_all(self, ops: Iterable[Op]) -> None:
        """Do all of *ops*, at most BATCH at a time. Raises: ZkError."""
        batch: list[Op] = []
        for op in ops:
            batch.append(op)
            if len(batch) == BATCH:
                await self._gathered(batch)
                batch = []
        await self._gathered(batch)

    async def _gathered(self, batch: list[Op]) -> None:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await asyncio.gather(*map(self.ask, batch))

    async def ensure(self, path: str) -> None:
        """Create *path* and its parents if they do not exist."""
        parts = path.strip("/").split("/")
        for count in range(1, len(parts) + 1):
            try:
                await self.ask(wire.create("/" + "/".join(parts[:count])))
            except ZkError as error:
                if error.code != wire.NODE_EXISTS:
                    raise

    async def children(self, path: str) -> list[str]:
        """Return the names below *path*; empty if it does not exist."""
        try:
            return wire.read_children(*await self.ask(wire.children(path)))
        except ZkError as error:
            if error.code != wire.NO_NODE:
                raise
            return []

    async def stat(self, path: str) -> wire.Stat:
        """Return the stat of *path*. Raises: ZkError if it does not exist."""
        return wire.read_stat(*await self.ask(wire.exists(path)))

    async def count(self, path: str) -> int:
        """Return the number of children of *path*, 0 if it does not exist."""
        try:
            return (await self.stat(path)).children
        except ZkError as error:
            if error.code != wire.NO_NODE:
                raise
            return 0

    async def delete_tree(self, path: str) -> None:
        """Delete *path* and all znodes below it, if they exist."""
        names = await self.children(path)
        for first in range(0, len(names), BATCH):
            await asyncio.gather(*(self.delete_tree(f"{path}/{name}") for name in names[first : first + BATCH]))
        try:
            await self.ask(wire.delete(path))
        except ZkError as error:
            if error.code != wire.NO_NODE:
                raise

    async def close(self) -> None:
        """End the session, so that its ephemeral znodes go at once."""
        if self._pinger is not None:
            self._pinger.cancel()
        if not self.is_lost and self._transport is not None:
            with suppress(ZkError):
                await self.ask((wire.CLOSE, b""))
            self._transport.close()


@asynccontextmanager
async def connected(host: str, port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    """A client with a session. Raises: OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        _, client = await loop.create_connection(Client, host, port, ssl=tls, server_hostname="" if tls else None)
        await client.greeted
    try:
        yield client
    finally:
        await client.close()
