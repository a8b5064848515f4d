"""A ZooKeeper session over successive connections, with the states of the port.

The session keeps a connection, pings and detects silence. It reports only what this process knows: a broken connection
is suspended, two thirds of the timeout without an answer are doubtful, and after the whole timeout the session has
ended, even if the server still has it. A new session never begins before the loss of the old one was reported, and
inherits nothing from it. Locks depend on when an answered request was *sent*, so a process that was frozen knows on
waking that its session may have ended. The connection depends on when an answer *arrived*, so a long queue of requests
does not count as silence. writes.py handles writes whose answer was lost.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nodelaunch.clock import uptime
from nodelaunch.errors import SessionLostError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.store import SessionState
from nodelaunch.store.shared import SessionStates
from nodelaunch.store.zookeeper.connection import ConnectionBrokenError, OnReply, WireConnection
from nodelaunch.store.zookeeper.dial import ClientIdentity, Dialer, Server
from nodelaunch.store.zookeeper.wire import BROKEN, OP_CLOSE, Greeting, store_error

log: Logger = get_logger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 2.0
"""Seconds between attempts to connect, doubling, with jitter; never more than a sixth of the session timeout."""
STEADY_S = 1.0
"""Seconds after which a connection counts as good: the next attempt comes without a pause."""
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class ConnectionListener:
    """Callbacks for the connection."""

    on_event: Callable[[int, str], None]
    """Called when a watch fires: with its kind, and the path with the chroot."""
    on_connected: Callable[[], None]
    """Called with a new connection, before its first use."""
    on_suspended: Callable[[], None]
    """Called when the connection has ended; requests without a reply get BROKEN next."""


class ZkSession(SessionStates):
    """The port's session, and the way to send requests in it. `start` and `stop` it."""

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        timeout_s: float,
        tls: ssl.SSLContext | None,
        identity: ClientIdentity | None = None,
    ) -> None:
        super().__init__()
        self.last_zxid: int = 0
        self.operations: Counter[str] = Counter()
        self._audience: ConnectionListener | None = None
        self.session_id: int = 0
        """The id; 0: there is no session."""
        self._granted = Greeting(0, bytes(16), timeout_s)
        self.dialer: Dialer = Dialer(servers, tls, timeout_s)
        self._identity = identity
        self._zxid_before = 0
        """The highest zxid of the previous session, until this one was compared with it."""
        self._heard_at = 0.0
        self._arrived_at = 0.0
        self.connection: WireConnection | None = None
        """The present connection; None if there is none."""
        self._runner: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_connected(self) -> bool:
        """True if requests can be sent."""
        return self.connection is not None

    @property
    def timeout_s(self) -> float:
        """The timeout that the server granted."""
        return self._granted.timeout_s

    def _grant(self, granted: Greeting) -> None:
        self._granted, self.session_id = granted, granted.session_id

    def use_servers(self, servers: Sequence[Server]) -> None:
        """Connect to one of *servers* from the next connection on; the present one stays while it works."""
        self.dialer.servers = list(servers)

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self, audience: ConnectionListener) -> None:
        self._audience = audience
        self._runner = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End the session, and notify the server if it can be reached."""
        if self.state is SessionState.CONNECTED:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self.ask("close", OP_CLOSE, b"")
            except (TimeoutError, ConnectionBrokenError, SessionLostError):
                pass  # the server's own timeout ends it
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        self._grant(Greeting(0, bytes(16), self.timeout_s))
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()
        self.enter(SessionState.CLOSED)
        await asyncio.sleep(0)  # lets the transport report its end

    async def _run(self) -> None:
        """Keep a connection, and open another after each one ends."""
        pause = 0.0
        while True:
            held_s = 0.0
            try:
                timeout_s = max(1.0, self.timeout_s / 3)
                if await self.dialer.dial(self._make_connection, self._greet, timeout_s=timeout_s):
                    held_s = await self._hold()
            except Exception:
                log.exception("zookeeper_session_error")  # the session continues after any error of one attempt
            if held_s >= STEADY_S:
                pause = 0.0
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(max(FIRST_PAUSE_S, pause * 2), LAST_PAUSE_S, self.timeout_s / 6)

    async def _hold(self) -> float:
        """Wait for the end of the connection. Return the seconds for which it lasted."""
        began = uptime()
        if self.connection is not None:
            log.info(
                "zookeeper_connected", server=self.dialer.server, session=f"{self.session_id:#x}", epoch=self.epoch
            )
            await self.connection.ended.wait()
        return uptime() - began

    def _make_connection(self) -> WireConnection:
        assert self._audience is not None  # noqa: S101
        connection = WireConnection(
            on_event=self._audience.on_event, on_heard=self._heard, on_broken=lambda: self._on_broken(connection)
        )
        return connection

    async def _greet(self, connection: WireConnection) -> None:
        """Ask the server to resume the session, or to create one. Raises: ConnectionBrokenError."""
        asked_for, asked_at = self._granted, uptime()
        try:
            greeting = await connection.greet(
                session_id=asked_for.session_id, password=asked_for.password, last_zxid=self.last_zxid,
                timeout_s=self.dialer.session_timeout_s,
            )  # fmt: skip
            if self._identity is not None and greeting.session_id:
                await self._identity.prove(connection)
        except BaseException:
            connection.abort()
            raise
        if asked_for is not self._granted:
            # The session was given up as lost while the server resumed it: end it, so that its locks don't linger.
            connection.send(OP_CLOSE, b"", lambda *_: None, None)
            connection.close()
            raise ConnectionBrokenError("the session timed out meanwhile")
        if self.session_id and greeting.session_id != self.session_id:
            self._lose("the server does not know the session any more")
            if not greeting.session_id:
                connection.abort()
                raise ConnectionBrokenError("the session is over")
        elif self.session_id and (uptime() - self._heard_at) >= self.timeout_s:
            self._lose("no answer for the whole session timeout")
            connection.abort()
            raise ConnectionBrokenError("the session is over")
        self._begin(connection, greeting, asked_at)

    def _begin(self, connection: WireConnection, greeting: Greeting, asked_at: float) -> None:
        assert self._audience is not None  # noqa: S101
        if not self.session_id:
            self.epoch += 1
        self._grant(greeting)
        self._heard_at = asked_at
        self._arrived_at = uptime()
        self.connection = connection
        self._schedule()
        self._audience.on_connected()
        self.enter(SessionState.CONNECTED)

    def _on_broken(self, connection: WireConnection) -> None:
        if self.connection is not connection:
            return
        self.connection = None
        if self._audience is not None:
            self._audience.on_suspended()
        if self.state is SessionState.CONNECTED:
            self.enter(SessionState.SUSPENDED)

    def _lose(self, why: str) -> None:
        """Report the end of the session before anything else happens.

        The next one starts from scratch: if ZooKeeper was wiped or restored, its servers refuse a client that has seen
        a higher zxid than theirs.
        """
        log.warning("zookeeper_session_lost", session=f"{self.session_id:#x}", detail=why)
        self._grant(Greeting(0, bytes(16), self.dialer.session_timeout_s))
        self._zxid_before, self.last_zxid = max(self._zxid_before, self.last_zxid), 0
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()
            if self._audience is not None:
                self._audience.on_suspended()
        self.enter(SessionState.LOST)
        self.enter(SessionState.CONNECTING)

    # -- hearing and silence ----------------------------------------------------------------------------------------

    def _heard(self, sent_at: float, zxid: int) -> None:
        self._heard_at = max(self._heard_at, sent_at)
        self._arrived_at = uptime()
        if zxid > self.last_zxid:
            self.last_zxid = zxid
            if self._zxid_before:
                self._compare_history(zxid)

    def _compare_history(self, zxid: int) -> None:
        """Compare the first answer of a new session with the last one of the previous session."""
        if zxid < self._zxid_before:
            log.error(
                "zookeeper_history_went_back", seen=f"{self._zxid_before:#x}", now=f"{zxid:#x}",
                detail="ZooKeeper has lost changes that we have seen: was it wiped, or restored from a backup?",
            )  # fmt: skip
        self._zxid_before = 0

    @property
    def may_hold(self) -> bool:
        """Return True if locks of this session can still be held: it exists, and an answer came in time."""
        return self.session_id != 0 and uptime() - self._heard_at < self._granted.timeout_s

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Conclude at the end of the timeout exactly, not at the next look after it: by then the session may have ended.
        until_lost = max(0.0, self.timeout_s - (uptime() - self._heard_at)) if self.session_id else self.timeout_s
        self._timer = asyncio.get_running_loop().call_later(min(self.timeout_s / 6, until_lost), self._tick)

    def _tick(self) -> None:
        """Ping when the connection is quiet, and change the state when the server is silent."""
        try:
            self._conclude()
        finally:
            self._schedule()

    def _conclude(self) -> None:
        if not self.session_id:
            return
        silent, timeout_s = uptime() - self._heard_at, self.timeout_s
        nothing_came = uptime() - self._arrived_at
        connection = self.connection
        if silent >= timeout_s:
            self._lose("no answer for the whole session timeout")
        elif nothing_came >= timeout_s * 2 / 3:
            if self.state in (SessionState.CONNECTED, SessionState.SUSPENDED):
                self.enter(SessionState.DOUBTFUL)
            if connection is not None:
                self.dialer.fell_silent()
                connection.abort()  # another server may answer
        elif connection is not None and (
            silent >= timeout_s / 3 or uptime() - connection.last_sent_at >= timeout_s / 3
        ):
            self.operations["ping"] += 1
            connection.ping()

    # -- the port ---------------------------------------------------------------------------------------------------

    async def connected(self) -> int:
        epoch = await super().connected()
        while not self.may_hold:
            self._conclude()  # the next look may be late: the process was stopped, or is very busy
            epoch = await super().connected()
        return epoch

    async def usable(self, epoch: int) -> None:
        """Wait until requests can be sent in session *epoch*. Raises: SessionLostError."""
        while self.connection is None or self.state is not SessionState.CONNECTED:
            self.check(epoch)
            await self.changed()
        self.check(epoch)

    def check(self, epoch: int) -> None:
        """Raise SessionLostError unless session *epoch* is known to be alive."""
        if self.epoch != epoch or not self.may_hold:
            raise SessionLostError(detail="the session ended" if self.epoch else "there is no session yet")

    # -- requests ---------------------------------------------------------------------------------------------------

    def send(self, name: str, opcode: int, body: bytes, on_reply: OnReply, context: object) -> None:
        """Send one request on the present connection; *on_reply* is called once, in the order of the stream."""
        connection = self.connection
        if connection is None:
            on_reply(context, BROKEN, 0, b"", 0)
            return
        self.operations[name] += 1
        connection.send(opcode, body, on_reply, context)

    async def ask(self, name: str, opcode: int, body: bytes, path: str = "") -> None:
        """Send one request with an empty answer. Raises: StoreError, ConnectionBrokenError."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.send(name, opcode, body, _answered, (future, path))
        await future


def _answered(context: tuple[asyncio.Future[None], str], error: int, _zxid: int, _data: bytes, _at: int) -> None:
    future, path = context
    if future.done():
        return
    if error == BROKEN:
        future.set_exception(ConnectionBrokenError())
    elif error:
        future.set_exception(store_error(error, path))
    else:
        future.set_result(None)
