"""Runs a driver's executable once: starts it, connects to it, logs its output, and ends it with all its processes.

The launcher listens in a new private directory, and the driver connects. The launcher accepts only a descendant of the
process that it started, of the same user, that proves to have the token of this run. supervisor.py restarts drivers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import sys
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from nodelaunch import __version__
from nodelaunch.driverhost.process import watchdog
from nodelaunch.driverhost.process.rationing import Ration
from nodelaunch.driverhost.process.redaction import NOTHING, Redactor
from nodelaunch.driverhost.wire.handshake import (
    CONTRACT,
    SOCKET_VARIABLE,
    is_proof,
    new_nonce,
    new_token,
    proof,
)
from nodelaunch.driverhost.wire.messages import (
    AUTHENTICATE,
    HELLO,
    LOCAL_PROCESSES,
    MAX_LINE,
    AuthenticateParams,
    HelloParams,
    Identity,
    Program,
    VersionRange,
    places_in,
)
from nodelaunch.driverhost.wire.peer import (
    Answer,
    ConnectionEndedError,
    GarbageError,
    Notice,
    Peer,
    RpcError,
    no_answer,
)
from nodelaunch.driverhost.wire.versions import VersionMismatchError, choose_version
from nodelaunch.errors import ErrorKind, ProviderUnavailableError, legible
from nodelaunch.log import Logger, get_logger

log: Logger = get_logger(__name__)

START_TIMEOUT_S: Final = 30.0
"""Time from the start of the process until its handshake is complete."""
END_GRACE_S: Final = 2.0
"""How long a driver may take to exit before it is killed."""
TAIL_LINES: Final = 20
"""Number of last output lines that errors show."""
LINE_LIMIT: Final = 2000
"""Characters of one line that are kept."""
LINES_PER_S: Final = 100
"""Most lines of output per second that are logged; the rest is only counted."""
MAX_ASKED: Final = 10_000
"""Most unanswered requests of a driver."""
STRAYS_PER_MINUTE: Final = 1
"""Most answers without a matching call that are logged per minute; the rest is only counted."""
ENVIRONMENT: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""Environment variables that a driver gets from the launcher, besides those of the provider's ``pass-environment``."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a driver."""

    name: str
    """The driver's name, for logs."""
    argv: tuple[str, ...]
    """The command line; the first item is an absolute path."""
    environment: tuple[str, ...] = ()
    """Names of further environment variables for the driver."""


class Tail:
    """Logs the output of one run line by line, and keeps its last lines."""

    def __init__(self, driver: str, redact: Redactor = NOTHING) -> None:
        self.lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._redact = redact
        self._log = log.bind(driver=driver)
        self._ration = Ration(
            LINES_PER_S, 1.0, lambda dropped: self._log.warning("driver_output_dropped", lines=dropped)
        )

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Read *stream* to its end. A line that is too long is cut."""
        while True:
            try:
                line = await stream.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    self._take(error.partial)
                self._ration.settle()
                return
            except asyncio.LimitOverrunError as error:
                line = await stream.read(error.consumed)
            self._take(line)

    def _take(self, line: bytes) -> None:
        text = legible(self._redact(line.decode(errors="replace").rstrip("\r\n"))[:LINE_LIMIT])
        self.lines.append(text)
        if self._ration.allows():
            self._log.info("driver_output", line=text)


class Child:
    """A running driver with its connected peer. Made by `start`; call `aclose` at the end."""

    def __init__(
        self, command: Command, process: asyncio.subprocess.Process, lifeline: int, redact: Redactor = NOTHING
    ) -> None:
        self.name: str = command.name
        self.identity: Identity = Identity(name=command.name)
        self.version = 0
        """Version of the contract in use."""
        self.contract: VersionRange = VersionRange(min=0, max=0)
        """Versions that the driver speaks."""
        self.tail: Tail = Tail(command.name, redact)
        self.garbage: str | None = None
        """Description of the invalid message that ended the connection."""
        self._redact = redact
        self._process = process
        self._lifeline = lifeline
        self._strays = Ration(STRAYS_PER_MINUTE, 60.0, self._say_strays_dropped)
        self._peer: Peer | None = None
        assert process.stdout is not None  # noqa: S101  it was asked for
        self._reading = asyncio.ensure_future(self.tail.read(process.stdout))
        self._talking: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id of the driver's watchdog."""
        return self._process.pid

    @property
    def peer(self) -> Peer:
        assert self._peer is not None  # noqa: S101  `start` sees to it
        return self._peer

    @property
    def is_alive(self) -> bool:
        return self._peer is not None and self._peer.ended is None

    def talk(self, peer: Peer) -> None:
        """Process the driver's messages from now on."""
        self._peer = peer
        self._talking = asyncio.ensure_future(self._talk(peer))

    async def _talk(self, peer: Peer) -> None:
        try:
            await peer.run()
        except GarbageError as error:
            self.garbage = legible(self._redact(str(error)))
            log.warning("driver_broke_protocol", driver=self.name, detail=self.garbage)

    def stray(self, what: str) -> None:
        """Log an answer without a matching call: the answer to another call may never come."""
        if self._strays.allows():
            log.warning("driver_answer_unmatched", driver=self.name, detail=legible(self._redact(what)))

    def _say_strays_dropped(self, dropped: int) -> None:
        log.warning("driver_answers_unmatched", driver=self.name, answers=dropped)

    async def ended(self) -> str:
        """Wait for the end of the driver and return a description of it. The end of its watchdog ends it, too."""
        if self._talking is not None:
            exited = asyncio.ensure_future(self.exited())
            await asyncio.wait({self._talking, exited}, return_when=asyncio.FIRST_COMPLETED)
            exited.cancel()
            await asyncio.wait([self._talking], timeout=END_GRACE_S)  # its last messages may still be on the way
            self.peer.end("its process exited")
            await asyncio.wait([self._talking])
        if self.garbage is not None:
            return self.garbage
        with suppress(TimeoutError):
            async with asyncio.timeout(END_GRACE_S):
                return _exit_in_words(await self._process.wait())
        return "it closed the connection and kept running"

    async def exited(self) -> int:
        return await self._process.wait()

    def last_words(self) -> str:
        return " | ".join(line for line in self.tail.lines if line.strip())

    def spare_sessions(self) -> None:
        """Make the watchdog spare processes in their own sessions: these are the driver's instances."""
        with suppress(BrokenPipeError):  # the watchdog has exited
            os.write(self._lifeline, b"s")

    async def aclose(self) -> None:
        """End the driver, by force if necessary; no process of it remains. A second call has no effect."""
        self._strays.settle()
        if self._peer is not None:
            self._peer.end("the driver is closed")
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        try:
            async with asyncio.timeout(END_GRACE_S + watchdog.TERMINATE_S + END_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        tasks = [task for task in (self._talking, self._reading) if task is not None]
        _, late = await asyncio.wait(tasks, timeout=1.0)
        for task in late:  # another process inherited the driver's output and has it open
            task.cancel()


async def start(
    command: Command, notice: Notice, *, answer: Answer = no_answer, versions: VersionRange = CONTRACT,
    timeout_s: float = START_TIMEOUT_S, redact: Redactor = NOTHING,
) -> Child:  # fmt: skip
    """Start the driver and make the handshake. *notice* gets its notifications, *answer* its calls.

    *redact* is applied to its output before it is logged.
    Raises: ProviderUnavailableError if the start fails, with kind ``config`` if there is no common version.
    """
    folder = tempfile.mkdtemp(prefix="nodelaunch-", dir=_short_folder())
    path = f"{folder}/driver"
    token = new_token()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening:
            listening.bind(path)
            listening.listen(4)
            child = await _spawn(command, path, token, redact)
            try:
                async with asyncio.timeout(timeout_s):
                    child.talk(await _connected(child, listening, notice, answer))
                    await _shake_hands(child, token, versions)
            except _FAILURES as error:
                words = await _ended_early(child, isinstance(error, ConnectionEndedError))
                raise _in_words(command, error, words, timeout_s, redact) from None
            except BaseException:
                await child.aclose()
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    log.info(
        "driver_started", driver=command.name, pid=child.pid, contract=child.version, version=child.identity.version
    )
    return child


def _short_folder() -> str | None:
    """Return None for the usual temporary folder, or ``/tmp`` if the path of a socket there would be too long."""
    return None if len(tempfile.gettempdir()) < 64 else "/tmp"  # noqa: S108  the directory made there is 0700


async def _spawn(command: Command, path: str, token: str, redact: Redactor) -> Child:
    theirs, ours = os.pipe()
    given, filled = os.pipe()
    os.write(filled, token.encode())
    os.close(filled)
    environment = {name: os.environ[name] for name in (*ENVIRONMENT, *command.environment) if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", watchdog.__file__, str(theirs), str(given), str(END_GRACE_S), *command.argv,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**environment, SOCKET_VARIABLE: path}, pass_fds=(theirs, given), start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
        os.close(given)
    return Child(command, process, ours, redact)


async def _connected(child: Child, listening: socket.socket, notice: Notice, answer: Answer) -> Peer:
    """Wait for a connection from a descendant of *child*. Raises: ConnectionEndedError if the child exits first."""
    exited = asyncio.ensure_future(child.exited())
    try:
        while True:
            accepting = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(listening))
            try:
                await asyncio.wait({exited, accepting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not accepting.done():
                    accepting.cancel()
            if not accepting.done():
                raise ConnectionEndedError("it exited before it connected")
            connection, _ = accepting.result()
            if _is_ours(connection, child.pid):
                reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_LINE)
                return Peer(reader, writer, answer=answer, notice=notice, stray=child.stray, most_asked=MAX_ASKED)
            log.warning(
                "driver_connection_refused",
                driver=child.name,
                detail="the process that connected is not the driver",
            )
            connection.close()
    finally:
        exited.cancel()


def _is_ours(connection: socket.socket, ancestor: int) -> bool:
    """Return True if the other end is a descendant of *ancestor* of the same user."""
    size = struct.calcsize("3i")
    pid, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return user == os.geteuid() and _descends(pid, ancestor)


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


async def _shake_hands(child: Child, token: str, versions: VersionRange) -> None:
    """Make the handshake.

    Raises: RpcError, ConnectionEndedError, VersionMismatchError, ValidationError; PermissionError for a wrong proof.
    """
    nonce = new_nonce()
    hello = HelloParams(protocol=versions, launcher=Program(name="nodelaunch", version=__version__), nonce=nonce)
    answer = HELLO.result.model_validate(await _ask(child, HELLO.name, hello.model_dump()))
    if not is_proof(answer.proof, token, "driver", (nonce, answer.nonce)):
        raise PermissionError("it did not prove that it has the token")
    child.contract = answer.protocol
    child.version = choose_version(versions, answer.protocol, driver=child.name)
    ours = AuthenticateParams(protocol=child.version, proof=proof(token, "launcher", nonce, answer.nonce))
    child.identity = AUTHENTICATE.result.model_validate(await _ask(child, AUTHENTICATE.name, ours.model_dump()))
    if LOCAL_PROCESSES in child.identity.capabilities:
        child.spare_sessions()


async def _ask(child: Child, method: str, params: dict[str, Any]) -> dict[str, Any]:
    return await child.peer.call(method, params, timeout_s=START_TIMEOUT_S)


async def _ended_early(child: Child, ends_by_itself: bool) -> str:
    """End a child whose start failed. Return how it exited, if it did so by itself, and its last output."""
    how = await child.ended() if ends_by_itself else ""
    await child.aclose()
    return ": ".join(part for part in (how, child.last_words()) if part)


_FAILURES = (
    VersionMismatchError, TimeoutError, PermissionError, RpcError, ConnectionEndedError, ValidationError,
)  # fmt: skip
"""Ways in which a start fails."""


def _in_words(
    command: Command, error: Exception, words: str, timeout_s: float, redact: Redactor
) -> ProviderUnavailableError:
    """Return the *error* of a start as an error for the caller."""
    match error:
        case VersionMismatchError():
            return ProviderUnavailableError(str(error), kind=ErrorKind.CONFIG)
        case TimeoutError():
            text = f"it has not connected and shaken hands within {timeout_s:g} s"
        case PermissionError() | RpcError():
            text = redact(f"the handshake failed: {error}")
        case ConnectionEndedError():
            text = "it exited before it was ready"
        case ValidationError():
            text = f"the handshake failed: it sent a message that is invalid at {places_in(error)}"
        case _:
            text = str(error)
    return ProviderUnavailableError(f"driver {command.name}: {text}" + (f": {words}" if words else ""))


def _exit_in_words(code: int) -> str:
    if code < 0:
        return f"its watchdog was killed by signal {-code}"
    return f"it was killed by signal {code - 128}" if code > 128 else f"it exited with code {code}"
