"""aiozk, extended: a connection that notices at once, and calls aiozk does not have.

aiozk 0.32 has no TLS, no AddWatch, reads the connect reply without noticing that it got another session, and spends a
task, a timer and field-by-field parsing on each call. This module keeps what is sound in it (the connect record, the
opcodes, the error classes) and adds, in a form that could go upstream:

* `WireConnection`, an ``asyncio.Protocol``: TLS by the loop; the writes of one loop turn joined; replies matched in
  order; end-of-file told at once; every reply and watch event handed on synchronously, in the order of the stream.
* Encoders and decoders with precompiled structs for the calls in use, AddWatch (106) among them.

What does *not* belong here: sessions, retries (zkclient.py), meaning (zookeeper.py).
Source: ZooKeeper 3.8, zookeeper.jute, and its server's behaviour.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiozk import exc, protocol

from nodelaunch.errors import (
    NotEmptyError,
    RecordExistsError,
    RecordGoneError,
    SessionLostError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from nodelaunch.protocol.store import Check, Create, Delete, Entry, Put, Stat

OP_CREATE2: Final[int] = protocol.Create2Request.opcode
OP_DELETE: Final[int] = protocol.DeleteRequest.opcode
OP_EXISTS: Final[int] = protocol.ExistsRequest.opcode
OP_GET: Final[int] = protocol.GetDataRequest.opcode
OP_SET: Final[int] = protocol.SetDataRequest.opcode
OP_CHILDREN2: Final[int] = protocol.GetChildren2Request.opcode
OP_CHECK: Final[int] = protocol.CheckVersionRequest.opcode
OP_MULTI: Final[int] = protocol.TransactionRequest.opcode
OP_SYNC: Final[int] = protocol.SyncRequest.opcode
OP_PING: Final[int] = protocol.PingRequest.opcode
OP_CLOSE: Final[int] = protocol.CloseRequest.opcode
OP_ADD_WATCH: Final = 106
PERSISTENT_RECURSIVE: Final = 1

XID_WATCH: Final = -1
XID_PING: Final = -2
MAX_XID: Final = 0x7FFFFFFF
MAX_FRAME: Final = 64 << 20
"""Bytes; a frame beyond this is no ZooKeeper's."""

EVENT_CREATED: Final[int] = protocol.WatchEvent.CREATED
EVENT_DELETED: Final[int] = protocol.WatchEvent.DELETED
EVENT_CHANGED: Final[int] = protocol.WatchEvent.DATA_CHANGED

_INT = struct.Struct("!i")
_TWO_INTS = struct.Struct("!ii")
_HEADER = struct.Struct("!iqi")
_STAT = struct.Struct("!qqqqiiiqiiq")
_MULTI_HEADER = struct.Struct("!i?i")
_MULTI_END = _MULTI_HEADER.pack(-1, True, -1)
_ACL_ANYONE = struct.pack("!ii5s i6s".replace(" ", ""), 31, 5, b"world", 6, b"anyone")
_ACLS = _INT.pack(1) + _ACL_ANYONE
"""world:anyone, all permissions: what every peer writes, and must be able to write over."""

PlainOp = Create | Put | Delete | Check


class ConnectionBrokenError(Exception):
    """The connection ended; a call under way on it may or may not have had its effect."""


# -- encoding -------------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    raw = value.encode()
    return _INT.pack(len(raw)) + raw


def blob(value: bytes) -> bytes:
    return _INT.pack(len(value)) + value


def encode_path(path: str, *, watch: bool = False) -> bytes:
    """Body of exists, getData and getChildren2."""
    return text(path) + (b"\x01" if watch else b"\x00")


def encode_op(op: PlainOp) -> bytes:
    """Body of one create2, setData, delete or check."""
    match op:
        case Create(path, data, ephemeral, sequence):
            return text(path) + blob(data) + _ACLS + _INT.pack(int(ephemeral) | int(sequence) << 1)
        case Put(path, data, version):
            return text(path) + blob(data) + _INT.pack(version)
        case Delete(path, version) | Check(path, version):
            return text(path) + _INT.pack(version)


def opcode_of(op: PlainOp) -> int:
    match op:
        case Create():
            return OP_CREATE2
        case Put():
            return OP_SET
        case Delete():
            return OP_DELETE
        case Check():
            return OP_CHECK


def encode_multi(ops: Sequence[PlainOp]) -> bytes:
    parts = [_MULTI_HEADER.pack(opcode_of(op), False, -1) + encode_op(op) for op in ops]
    return b"".join(parts) + _MULTI_END


def encode_add_watch(path: str) -> bytes:
    return text(path) + _INT.pack(PERSISTENT_RECURSIVE)


# -- decoding -------------------------------------------------------------------------------------------------------


def read_text(body: bytes, at: int) -> tuple[str, int]:
    (size,) = _INT.unpack_from(body, at)
    end = at + 4 + max(size, 0)
    return body[at + 4 : end].decode(), end


def read_blob(body: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _INT.unpack_from(body, at)
    end = at + 4 + max(size, 0)
    return body[at + 4 : end], end


def read_stat(body: bytes, at: int = 0) -> tuple[Stat, int]:
    created, modified, created_ms, modified_ms, version, _, _, owner, *_ = _STAT.unpack_from(body, at)
    stat = Stat(version, created, modified, created_ms / 1000, modified_ms / 1000, owner)
    return stat, at + _STAT.size


def read_entry(path: str, body: bytes) -> Entry:
    """The reply to getData."""
    data, at = read_blob(body, 0)
    return Entry(path, data, read_stat(body, at)[0])


def read_children(body: bytes) -> tuple[list[str], Stat]:
    """The reply to getChildren2: names in no order, and the parent's own stat."""
    (count,) = _INT.unpack_from(body, 0)
    names, at = [], 4
    for _ in range(count):
        name, at = read_text(body, at)
        names.append(name)
    return names, read_stat(body, at)[0]


def read_result(op: PlainOp, body: bytes, at: int = 0) -> tuple[Entry | None, int]:
    """The reply to one operation."""
    match op:
        case Create(_, data):
            path, at = read_text(body, at)
            stat, at = read_stat(body, at)
            return Entry(path, data, stat), at
        case Put(path, data):
            stat, at = read_stat(body, at)
            return Entry(path, data, stat), at
        case _:
            return None, at


def read_multi(ops: Sequence[PlainOp], body: bytes, *, zxid: int, session_id: int, now: float) -> list[Entry | None]:
    """The reply to a transaction that took effect as *zxid*, in *session_id*.

    A server tells only the path of what a transaction created; the rest of its stat follows from the above, but for the
    time, for which *now* (ours, seconds since 1970) stands in. Raises: the StoreError of the operation it failed at.
    """
    results: list[Entry | None] = []
    errors: list[tuple[PlainOp, int]] = []
    at = 0
    for op in ops:
        kind, _, _ = _MULTI_HEADER.unpack_from(body, at)
        at += _MULTI_HEADER.size
        if kind == -1:
            errors.append((op, _INT.unpack_from(body, at)[0]))
            at += _INT.size
        elif isinstance(op, Create) and kind != OP_CREATE2:
            path, at = read_text(body, at)
            results.append(Entry(path, op.data, Stat(0, zxid, zxid, now, now, session_id if op.ephemeral else 0)))
        else:
            result, at = read_result(op, body, at)
            results.append(result)
    inconsistent = exc.RuntimeInconsistency.error_code
    for op, code in errors:
        if code not in (0, inconsistent):
            raise store_error(code, op.path)
    if errors:
        raise StoreError(ops[0].path, "the server rolled the transaction back without saying why")
    return results


_ERRORS: Final[dict[int, type[StoreError]]] = {
    exc.NoNode.error_code: RecordGoneError,
    exc.NodeExists.error_code: RecordExistsError,
    exc.BadVersion.error_code: VersionConflictError,
    exc.NotEmpty.error_code: NotEmptyError,
    exc.SessionExpired.error_code: SessionLostError,
    exc.SessionMoved.error_code: SessionLostError,
    exc.ConnectionLoss.error_code: StoreUnavailableError,
    exc.OperationTimeout.error_code: StoreUnavailableError,
    exc.NotReadOnly.error_code: StoreUnavailableError,
}


def store_error(code: int, path: str) -> StoreError:
    """The error of ours that ZooKeeper's *code* amounts to."""
    known = _ERRORS.get(code, StoreError)
    named = exc.response_error_xref.get(code)
    return known(path, "" if known is not StoreError else (named.__name__ if named else f"ZooKeeper error {code}"))


# -- the connection -------------------------------------------------------------------------------------------------

OnReply = Callable[[int, int, bytes], None]
"""Told of a reply: zxid, error code (0: none), body."""


@dataclass(slots=True)
class _Waiting:
    xid: int
    sent_at: float
    on_reply: OnReply
    on_broken: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Greeting:
    """The server's answer to connecting; session 0: the one asked for is over."""

    session_id: int
    password: bytes
    timeout_s: float


class WireConnection(asyncio.Protocol):
    """One connection. Everything it is told of comes in the order of the stream."""

    def __init__(
        self,
        *,
        on_event: Callable[[int, str], None],
        on_heard: Callable[[float, int], None],
        on_broken: Callable[[], None],
    ) -> None:
        self.is_open = False
        self.last_sent_at = 0.0
        self._on_event = on_event
        self._on_heard = on_heard
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.Future[Greeting] = self._loop.create_future()
        self._is_greeted = False
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._waiting: deque[_Waiting] = deque()
        self._pings: deque[float] = deque()

    # -- sending ----------------------------------------------------------------------------------------------------

    async def greet(self, *, session_id: int, password: bytes, last_zxid: int, timeout_s: float) -> Greeting:
        """Ask for a session. Raises: ConnectionBrokenError."""
        record = protocol.ConnectRequest(
            protocol_version=0, last_seen_zxid=last_zxid, timeout=int(timeout_s * 1000), session_id=session_id,
            password=password, read_only=False,
        )  # fmt: skip
        self._write(blob(record.serialize()))
        return await self._greeting

    def send(self, xid: int, opcode: int, body: bytes, on_reply: OnReply, on_broken: Callable[[], None]) -> None:
        """Send one request; *on_reply* or *on_broken* is called once."""
        now = self._loop.time()
        self._waiting.append(_Waiting(xid, now, on_reply, on_broken))
        self._write(_INT.pack(len(body) + 8) + _TWO_INTS.pack(xid, opcode) + body)

    def ping(self) -> None:
        self._pings.append(self._loop.time())
        self._write(_INT.pack(8) + _TWO_INTS.pack(XID_PING, OP_PING))

    def _write(self, frame: bytes) -> None:
        self.last_sent_at = self._loop.time()
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        frames, self._out = self._out, []
        if self._transport is not None and frames:
            self._transport.write(b"".join(frames))

    def abort(self) -> None:
        """Cut the connection without more ado."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Send what is written, then end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # -- being told -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        self.is_open = True
        self._flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  why it ended makes no difference
        self.is_open = False
        self._transport = None
        if not self._greeting.done():
            self._greeting.set_exception(ConnectionBrokenError())
            self._greeting.exception()  # it is told by whoever waits, if anybody does
        waiting, self._waiting = self._waiting, deque()
        self._on_broken()
        for each in waiting:
            each.on_broken()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        at, size = 0, len(self._buffer)
        while size - at >= 4:
            (length,) = _INT.unpack_from(self._buffer, at)
            if not 0 <= length <= MAX_FRAME:
                self.abort()
                return
            end = at + 4 + length
            if end > size:
                break
            frame = bytes(self._buffer[at + 4 : end])
            at = end
            try:
                self._take_in(frame)
            except (struct.error, IndexError, UnicodeDecodeError):
                self.abort()  # not ZooKeeper, or not in step any more
                return
        del self._buffer[:at]

    def _take_in(self, frame: bytes) -> None:
        if not self._is_greeted:
            self._is_greeted = True
            reply: Any = protocol.ConnectResponse.deserialize(frame)
            if not self._greeting.done():
                self._greeting.set_result(Greeting(reply.session_id, reply.password, reply.timeout / 1000))
            return
        xid, zxid, error = _HEADER.unpack_from(frame)
        if xid == XID_WATCH:
            kind, _state = _TWO_INTS.unpack_from(frame, _HEADER.size)
            path, _ = read_text(frame, _HEADER.size + 8)
            self._on_event(kind, path)
        elif xid == XID_PING:
            self._on_heard(self._pings.popleft(), zxid)
        else:
            waiting = self._waiting.popleft()
            if waiting.xid != xid:
                raise IndexError(xid)
            self._on_heard(waiting.sent_at, zxid)
            waiting.on_reply(zxid, error, frame[_HEADER.size :])
