"""A connection to a ZooKeeper server: sends requests, and passes on replies and events in the order of the stream.

The requests of one turn of the loop are sent in one write. Replies are matched in order. Each reply is passed to the
callback of its request, before any later reply or event. The end of the connection is reported at once. wire.py encodes
and decodes frames.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from nodelaunch.clock import uptime
from nodelaunch.store.zookeeper.wire import (
    BROKEN,
    OP_AUTH,
    OP_PING,
    Greeting,
    encode_auth,
    encode_connect,
    name_error,
    read_greeting,
)

MAX_XID: Final = 0x7FFFFFFE
SMALLEST_FRAME: Final = 20
"""Bytes of a reply without a body, with its length field."""
MAX_FRAME: Final = 64 << 20
"""Bytes; no frame of ZooKeeper is larger."""
BUFFER: Final = 256 << 10
"""Bytes that are received at a time."""
XID_WATCH: Final = -1
XID_PING: Final = -2
XID_AUTH: Final = -4

_REQUEST = struct.Struct("!iii")
_LENGTH = struct.Struct("!i")
_HEADER = struct.Struct("!iiqi")
_EVENT = struct.Struct("!iii")

OnReply = Callable[[Any, int, int, bytes, int], None]
"""Called with a reply: the context of the request, error code (0: none; BROKEN: no reply came), zxid, the received
bytes, and the offset of the body in them."""


class ConnectionBrokenError(Exception):
    """The connection ended; a call under way on it may or may not have had its effect."""


class AuthRefusedError(ConnectionBrokenError):
    """The server refuses this client's identity; it ends the connection."""


class WireConnection(asyncio.BufferedProtocol):
    """A connection to a server. All callbacks are in the order of the stream.

    *on_event*: called with kind and path. *on_heard*: called, after a batch of replies and events, with the time at
    which the last answered request was sent (0: none was), and the highest zxid. *on_broken*: called at the end, before
    the requests without a reply fail.
    """

    def __init__(
        self,
        *,
        on_event: Callable[[int, str], None],
        on_heard: Callable[[float, int], None],
        on_broken: Callable[[], None],
    ) -> None:
        self.last_sent_at: float = 0.0
        self.ended: asyncio.Event = asyncio.Event()
        self._on_event = on_event
        self._on_heard = on_heard
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.Future[Greeting] | None = self._loop.create_future()
        self._auth: asyncio.Future[None] | None = None
        self._came_into = memoryview(bytearray(BUFFER))
        """The buffer into which the transport writes received bytes. Otherwise the transport would make a new buffer
        for each TLS record, and a server sends a record for each frame."""
        self._rest = bytearray()
        self._out: list[bytes] = []
        self._waiting: deque[tuple[int, float, OnReply, Any]] = deque()
        self._pings: deque[float] = deque()
        self._xid = 0

    # -- sending ----------------------------------------------------------------------------------------------------

    async def greet(self, *, session_id: int, password: bytes, last_zxid: int, timeout_s: float) -> Greeting:
        """Ask for a session. Raises: ConnectionBrokenError."""
        greeting = self._greeting
        if greeting is None:
            raise ConnectionBrokenError("it was greeted before")
        self._write(
            encode_connect(session_id=session_id, password=password, last_zxid=last_zxid, timeout_s=timeout_s), b""
        )
        return await greeting

    async def authenticate(self, scheme: str, secret: bytes) -> None:
        """Send this client's identity, after the greeting. Raises: AuthRefusedError, ConnectionBrokenError."""
        if self._transport is None:
            raise ConnectionBrokenError("the server ended the connection before it accepted our identity")
        auth = self._auth = self._loop.create_future()
        body = encode_auth(scheme, secret)
        self._write(_REQUEST.pack(len(body) + 8, XID_AUTH, OP_AUTH), body)
        await auth

    @property
    def outstanding(self) -> int:
        """Requests that have no answer yet."""
        return len(self._waiting)

    def send(self, opcode: int, body: bytes, on_reply: OnReply, context: object) -> None:
        """Send one request; *on_reply* is called once, with *context*."""
        xid = self._xid = self._xid % MAX_XID + 1
        out = self._out
        if not out:
            self.last_sent_at = uptime()
            self._loop.call_soon(self._flush)
        out.append(_REQUEST.pack(len(body) + 8, xid, opcode))
        out.append(body)
        self._waiting.append((xid, self.last_sent_at, on_reply, context))

    def ping(self) -> None:
        self._pings.append(uptime())
        self._write(_REQUEST.pack(8, XID_PING, OP_PING), b"")

    def _write(self, head: bytes, body: bytes) -> None:
        if not self._out:
            self.last_sent_at = uptime()
            self._loop.call_soon(self._flush)
        self._out += (head, body)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))

    def abort(self) -> None:
        """Cut the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Send all written data, then end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # -- changes ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.ended.set()
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(ConnectionBrokenError(_why(error)))
            self._greeting.exception()  # the waiter gets the error, if there is one
        self._be_known(ConnectionBrokenError("the server ended the connection before it accepted our identity"))
        waiting, self._waiting = self._waiting, deque()
        self._on_broken()
        for _, _, on_reply, context in waiting:
            on_reply(context, BROKEN, 0, b"", 0)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  as the interface says
        return self._came_into

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._came_into[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the stream."""
        if self._rest:
            self._rest += data
            if len(self._rest) < _frame_size(self._rest):
                return
            data = bytes(self._rest)
            self._rest = bytearray()
        try:
            at = self._take_in(data)
        except (struct.error, IndexError, UnicodeDecodeError):
            self.abort()  # not ZooKeeper, or out of step
            return
        if at < len(data):
            self._keep(data, at)

    def _keep(self, data: bytes, at: int) -> None:
        """Keep the start of a frame until the rest arrives."""
        self._rest += data[at:]
        if not SMALLEST_FRAME <= _frame_size(self._rest) <= MAX_FRAME:
            self.abort()

    def _take_in(self, data: bytes) -> int:
        """Handle every whole frame in *data*. Return the offset of the first incomplete one."""
        at, size = 0, len(data)
        heard_at, heard_zxid = 0.0, 0
        waiting = self._waiting
        while size - at >= SMALLEST_FRAME:
            length, xid, zxid, error = _HEADER.unpack_from(data, at)
            end = at + 4 + length
            if end > size or length < 16:
                break
            if self._greeting is not None:
                self._be_greeted(read_greeting(data, at + 4))
            elif xid == XID_WATCH:
                if zxid > heard_zxid:  # it is -1 if the server is older than 3.9
                    heard_zxid = zxid
                kind, _, path_size = _EVENT.unpack_from(data, at + 20)
                self._on_event(kind, data[at + 32 : at + 32 + path_size].decode())
            elif xid == XID_PING:
                heard_at, heard_zxid = self._pings.popleft(), max(heard_zxid, zxid)
            elif xid == XID_AUTH:
                self._be_known(AuthRefusedError(name_error(error)) if error else None)
            else:
                wanted, heard_at, on_reply, context = waiting.popleft()
                if wanted != xid:
                    raise IndexError(xid)
                if zxid > heard_zxid:
                    heard_zxid = zxid
                on_reply(context, error, zxid, data, at + 20)
            at = end
        if heard_at or heard_zxid:
            self._on_heard(heard_at, heard_zxid)
        return at

    def _be_greeted(self, greeting: Greeting) -> None:
        waiting, self._greeting = self._greeting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(greeting)

    def _be_known(self, error: ConnectionBrokenError | None) -> None:
        """Handle the server's verdict on this client's identity, or the end of the wait for it."""
        auth, self._auth = self._auth, None
        if auth is None or auth.done():
            return
        if error is None:
            auth.set_result(None)
        else:
            auth.set_exception(error)


def _frame_size(begun: bytearray) -> int:
    """Return the size in bytes of the frame that the given bytes start, with its length field; the least possible size
    if the length field is incomplete."""
    return _LENGTH.unpack_from(begun)[0] + 4 if len(begun) >= 4 else SMALLEST_FRAME


def _why(error: Exception | None) -> str:
    """Return the reason for the end of a connection before the server's greeting."""
    said = f" ({error})" if error is not None and str(error) else ""
    return f"the server ended the connection before greeting us{said}"
