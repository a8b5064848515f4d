"""One ZooKeeper session over whatever connections it takes, with the states of the port.

Keeps a connection, pings, notices silence, and says honestly what is known: a broken connection suspends, two thirds
of the timeout without an answer are doubtful, the whole timeout is the end of the session whatever the server thinks.
A new session is never begun without saying first that the old one is lost. Time is counted from when a request that was
answered was *sent*, so a process that was frozen knows on waking that its session may be over.
What does *not* belong here: what requests mean, and what to do with one whose answer was lost (zookeeper.py).
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from nodelaunch.errors import SessionLostError
from nodelaunch.protocol.store import SessionState
from nodelaunch.store.shared import SessionStates
from nodelaunch.store.zkwire import (
    MAX_XID,
    OP_CLOSE,
    ConnectionBrokenError,
    Greeting,
    WireConnection,
    store_error,
)

log = structlog.get_logger(__name__)

Server = tuple[str, int]
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 2.0
"""Between attempts to connect, doubling, with jitter."""
CLOSE_TIMEOUT_S = 2.0


class ZkSession(SessionStates):
    """The port's session, and the way to send requests in it. `start` and `stop` it."""

    def __init__(self, servers: Sequence[Server], *, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self.session_id = 0
        self.timeout_s = timeout_s
        self.last_zxid = 0
        self.operations: Counter[str] = Counter()
        self.on_event: Callable[[int, str], None] = lambda _kind, _path: None
        self.on_connected: Callable[[], None] = lambda: None
        """Called with every new connection, before anybody else may use it."""
        self._wanted_timeout_s = timeout_s
        self._servers = list(servers)
        self._tls = tls
        self._password = bytes(16)
        self._heard_at = 0.0
        self._xid = 0
        self._connection: WireConnection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._broken = asyncio.Event()
        self._complained = False

    def use_servers(self, servers: Sequence[Server]) -> None:
        """Connect to one of *servers* from the next connection on; the one there is stays while it holds."""
        self._servers = list(servers)

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._runner = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End the session, and say so to the server if it can be reached."""
        if self.state is SessionState.CONNECTED:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self.request("close", OP_CLOSE, b"")
            except (TimeoutError, ConnectionBrokenError, SessionLostError):
                pass  # the server will find out by itself
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self.enter(SessionState.CLOSED)
        await asyncio.sleep(0)  # lets the transport's end be told

    async def _run(self) -> None:
        """Have a connection, again and again."""
        pause = FIRST_PAUSE_S
        while True:
            if await self._connect():
                pause = FIRST_PAUSE_S
                await self._broken.wait()
            else:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(LAST_PAUSE_S, pause * 2)

    async def _connect(self) -> bool:
        """Try every server once, in random order; whether one took us."""
        for host, port in random.sample(self._servers, len(self._servers)):
            try:
                async with asyncio.timeout(max(1.0, self.timeout_s / 3)):
                    await self._connect_to(host, port)
            except (OSError, TimeoutError, ConnectionBrokenError, ssl.SSLError) as error:
                if not self._complained:
                    detail = str(error) or type(error).__name__
                    log.warning("zookeeper_unreachable", host=host, port=port, detail=detail)
                continue
            self._complained = False
            return True
        self._complained = True
        return False

    async def _connect_to(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._broken = asyncio.Event()
        broken = self._broken
        connection = WireConnection(
            on_event=self.on_event,
            on_heard=self._heard,
            on_broken=lambda: self._on_broken(connection, broken),
        )
        # No SNI and no check of the name: certificates of ZooKeeper servers need not name the host.
        name = "" if self._tls is not None else None
        await loop.create_connection(lambda: connection, host, port, ssl=self._tls, server_hostname=name)
        asked_for, asked_at = self.session_id, loop.time()
        try:
            greeting = await connection.greet(
                session_id=asked_for, password=self._password, last_zxid=self.last_zxid,
                timeout_s=self._wanted_timeout_s,
            )  # fmt: skip
        except BaseException:
            connection.abort()
            raise
        if asked_for != self.session_id:
            # The session was given up for lost while the server took it back: end it, so that its locks don't linger.
            connection.send(MAX_XID, OP_CLOSE, b"", lambda *_: None, lambda: None)
            connection.close()
            raise ConnectionBrokenError
        if self.session_id and greeting.session_id != self.session_id:
            self._lose("the server does not know the session any more")
            if not greeting.session_id:
                connection.abort()
                raise ConnectionBrokenError
        elif self.session_id and self._silent_for() >= self.timeout_s:
            self._lose("no answer for the whole session timeout")
            connection.abort()
            raise ConnectionBrokenError
        self._begin(connection, greeting, asked_at)
        log.info("zookeeper_connected", host=host, port=port, session=f"{self.session_id:#x}", epoch=self.epoch)

    def _begin(self, connection: WireConnection, greeting: Greeting, asked_at: float) -> None:
        if not self.session_id:
            self.epoch += 1
        self.session_id, self._password = greeting.session_id, greeting.password
        self.timeout_s = greeting.timeout_s
        self._heard_at = asked_at
        self._connection = connection
        self._schedule()
        self.on_connected()
        self.enter(SessionState.CONNECTED)

    def _on_broken(self, connection: WireConnection, broken: asyncio.Event) -> None:
        if self._connection is connection:
            self._connection = None
            if self.state is SessionState.CONNECTED:
                self.enter(SessionState.SUSPENDED)
        broken.set()

    def _lose(self, why: str) -> None:
        """The session is over; say so before anything else happens."""
        log.warning("zookeeper_session_lost", session=f"{self.session_id:#x}", detail=why)
        self.session_id, self._password = 0, bytes(16)
        connection, self._connection = self._connection, None
        self.enter(SessionState.LOST)
        self.enter(SessionState.CONNECTING)
        if connection is not None:
            connection.abort()

    # -- hearing and silence ----------------------------------------------------------------------------------------

    def _heard(self, sent_at: float, zxid: int) -> None:
        self._heard_at = max(self._heard_at, sent_at)
        self.last_zxid = max(self.last_zxid, zxid)

    def _silent_for(self) -> float:
        return asyncio.get_running_loop().time() - self._heard_at

    @property
    def may_hold(self) -> bool:
        """Whether what was taken in this session can still be ours: there is one, and it was heard of in time."""
        return self.session_id != 0 and self.state is not SessionState.CLOSED and self._silent_for() < self.timeout_s

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # At the end of the timeout exactly, not at the next look after it: by then the session may be over.
        until_lost = max(0.0, self.timeout_s - self._silent_for()) if self.session_id else self.timeout_s
        self._timer = asyncio.get_running_loop().call_later(min(self.timeout_s / 6, until_lost), self._tick)

    def _tick(self) -> None:
        """Ping when it has been quiet, and draw the conclusions of silence."""
        silent = self._silent_for()
        if self.session_id and silent >= self.timeout_s:
            self._lose("no answer for the whole session timeout")
        elif self.session_id and silent >= self.timeout_s * 2 / 3:
            if self.state in (SessionState.CONNECTED, SessionState.SUSPENDED):
                self.enter(SessionState.DOUBTFUL)
            if self._connection is not None:
                self._connection.abort()  # another server may answer
        elif self._connection is not None:
            quiet = asyncio.get_running_loop().time() - self._connection.last_sent_at
            if quiet >= self.timeout_s / 3 or silent >= self.timeout_s / 3:
                self.operations["ping"] += 1
                self._connection.ping()
        self._schedule()

    # -- the port ---------------------------------------------------------------------------------------------------

    async def usable(self, epoch: int) -> None:
        """Wait until requests can be sent in session *epoch*. Raises: SessionLostError."""
        while self.state is not SessionState.CONNECTED or self._connection is None:
            self.check(epoch)
            await self.changed()
        self.check(epoch)

    def check(self, epoch: int) -> None:
        """Raise SessionLostError unless session *epoch* is, for all we know, still going on."""
        if self.epoch != epoch or not self.may_hold:
            raise SessionLostError(detail="the session ended" if self.epoch else "there is no session yet")

    # -- requests ---------------------------------------------------------------------------------------------------

    def request(
        self,
        name: str,
        opcode: int,
        body: bytes,
        *,
        path: str = "",
        take_in: Callable[[int, bytes], object] | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> asyncio.Future[object]:
        """Send one request on the present connection; the future has what *take_in* (zxid, body) makes of the reply.

        *take_in* runs in the order of the stream, so before any later event is told; *on_failure* runs there too when
        the reply is an error. The future raises StoreError, or ConnectionBrokenError when no reply came.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        connection = self._connection
        if connection is None or not connection.is_open:
            future.set_exception(ConnectionBrokenError())
            return future

        def on_reply(zxid: int, error: int, reply: bytes) -> None:
            try:
                if error:
                    raise store_error(error, path)
                result = take_in(zxid, reply) if take_in is not None else None
            except Exception as failure:  # noqa: BLE001  whoever waits is told, the stream goes on
                if on_failure is not None:
                    on_failure()
                if not future.cancelled():
                    future.set_exception(failure)
            else:
                if not future.cancelled():
                    future.set_result(result)

        def on_broken() -> None:
            if not future.done():
                future.set_exception(ConnectionBrokenError())

        self._xid = self._xid % (MAX_XID - 1) + 1
        self.operations[name] += 1
        connection.send(self._xid, opcode, body, on_reply, on_broken)
        return future

    def post(
        self,
        name: str,
        opcode: int,
        body: bytes,
        *,
        path: str,
        take_in: Callable[[int, bytes], object],
        on_failure: Callable[[], None],
    ) -> None:
        """Send a request whose outcome only *take_in* or *on_failure* care for; a broken connection is neither."""
        future = self.request(name, opcode, body, path=path, take_in=take_in, on_failure=on_failure)
        future.add_done_callback(_retrieved)


def _retrieved(future: asyncio.Future[object]) -> None:
    if not future.cancelled():
        future.exception()
