"""Exchanges raw messages with a driver's process, also some that no launcher sends, and records the driver's faults.

The probe uses only the message models of the launcher's side, so that a driver is measured by the contract and not by
the tolerance of one launcher. No watchdog runs between them, so that the driver has to clean up by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nodelaunch import __version__
from nodelaunch.driverhost.process.child import ENVIRONMENT, Command
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.handshake import CONTRACT, SOCKET_VARIABLE, new_nonce, new_token, proof

Json = dict[str, Any]

START_S: Final = 30.0
WORDS_S: Final = 0.2
"""How long to wait for the last output of a process after the end of its connection."""
ROOM: Final = 8 << 20
"""Most bytes of a line that the probe reads, to report the length of a line that is too long."""
_HANDED_OVER: Final = """\
import os, sys
given = int(sys.argv[1])
os.set_inheritable(3, True) if given == 3 else os.dup2(given, 3)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Passes the token as descriptor 3, as the launcher's watchdog does."""


@dataclass(frozen=True, slots=True)
class DriverProgram:
    """A driver's executable, and the provider that the driver works for."""

    command: Command
    provider: Mapping[str, Any]
    """The provider's mapping in a configuration, as the driver gets it."""
    has_local_processes: bool = False
    """True if a process of the driver in its own session is an instance."""
    is_remote: bool = False
    """True if the command only connects to a driver that runs already: there is a session, but no process."""


class ProbeError(Exception):
    """The driver did not answer, or exited; the text says which."""


class RefusedCall(Exception):  # noqa: N818  it is an answer
    """The driver answered with an error."""

    def __init__(self, error: Json) -> None:
        super().__init__(str(error.get("message", "")))
        self.code: Any | None = error.get("code")
        self.data: Json = error["data"] if isinstance(error.get("data"), dict) else {}

    @property
    def kind(self) -> str | None:
        return self.data.get("kind")


@dataclass(slots=True)
class Received:
    """All messages and output of a process."""

    faults: list[tuple[str, str]] = field(default_factory=list)
    """Forbidden messages: the broken rule and a description of each."""
    notes: list[tuple[str, Json]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    output: bytearray = field(default_factory=bytearray)
    connections: int = 0

    def against(self, *rules: str) -> list[str]:
        return [what for rule, what in self.faults if rule in rules]


class Probe:
    """A run of a driver. `start` starts it; `aclose` ends it and removes all its processes and files."""

    def __init__(
        self, program: DriverProgram, *, answer_s: float = 20.0, environment: Mapping[str, str] | None = None
    ) -> None:
        self.program = program
        self.received: Received = Received()
        self.token: str = new_token()
        self.identity: m.Identity = m.Identity(name="")
        self._answer_s = answer_s
        self.asked: str = ""
        """The method of the last call."""
        self._environment = environment or {}
        self._folder = tempfile.mkdtemp(prefix="nodelaunch-", dir="/tmp" if len(tempfile.gettempdir()) > 60 else None)  # noqa: S108  0700
        self.path: str = f"{self._folder}/driver"
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Json]] = {}
        self._nonces = ("", "")
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        self._noted = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the process. Raises: OSError."""
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=ROOM)
        given, filled = os.pipe()
        os.write(filled, self.token.encode())
        os.close(filled)
        argv = self.program.command.argv
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", _HANDED_OVER, str(given), *argv,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                env={**environment_of(self.program.command), **self._environment, SOCKET_VARIABLE: self.path},
                pass_fds=(given,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(given)
        self._listening = asyncio.create_task(self._read_output(self._process))
        self._tasks.append(self._listening)

    async def connected(self) -> None:
        """Wait until the driver has connected. Raises: ProbeError."""
        await self._first(self._connected, START_S, "the driver did not connect")

    async def ended(self, timeout_s: float) -> bool:
        """Return True if the process ends within *timeout_s*."""
        assert self._process is not None  # noqa: S101  it was started
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
                return True
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None  # noqa: S101  it was started
        return self._process.pid

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def kill(self) -> None:
        """Kill the process and its descendants, as the kernel does on a machine without memory."""
        for pid in (self.pid, *self.group()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def group(self) -> list[int]:
        """Return the processes of the driver that are not instances."""
        spared = self.program.has_local_processes
        return [pid for pid, session in descendants(self.path) if not (spared and session != self.pid)]

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        self.hang_up()
        if self._process is not None:
            await self.ended(2.0)
            self.kill()
            await self._process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _first(self, event: asyncio.Event, timeout_s: float, otherwise: str) -> None:
        waiting = [asyncio.create_task(each.wait()) for each in (event, self._ended)]
        try:
            done, _ = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if not event.is_set():
            why = "and exited" if done else f"within {timeout_s:g} s"
            raise ProbeError(f"{otherwise} {why}{self._last_words()}")

    def _last_words(self) -> str:
        lines = bytes(self.received.output[-2000:]).decode(errors="replace").strip().splitlines()
        return f"; its last output: {' | '.join(lines[-3:])}" if lines else ""

    # -- hearing ----------------------------------------------------------------------------------------------------

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  it was asked for
        while chunk := await process.stdout.read(1 << 16):
            self.received.output += chunk
        self._ended.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received.connections += 1
        if self._writer is not None:
            writer.close()
            return
        self._writer = writer
        self._connected.set()
        self._tasks.append(asyncio.create_task(self._read(reader)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(line)
        except (ConnectionError, ValueError) as error:
            if isinstance(error, ValueError):
                self._fault("P4", f"the driver sent a line longer than {ROOM} bytes")
        await asyncio.wait([self._listening], timeout=WORDS_S)
        self._ended.set()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ProbeError(f"the connection ended{self._last_words()}"))
                future.exception()  # mark as retrieved: possibly no caller waits

    def _take(self, line: bytes) -> None:
        if len(line) > m.MAX_LINE:
            self._fault("P4", f"the driver sent a line of {len(line)} bytes; {m.MAX_LINE} are allowed")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._fault("P4", f"the driver sent invalid JSON: {line[:60].decode(errors='replace')!r}")
            return
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            start = line[:60].decode(errors="replace")
            self._fault("P4", f"the driver sent a message that is not JSON-RPC 2.0: {start!r}")
        elif "method" in message:
            self._take_note(message)
        else:
            self._settle(message)

    def _take_note(self, message: Json) -> None:
        params = message.get("params", {})
        if message.get("id") is not None:
            self._fault(
                "P4", f"the driver sent a request, {message['method']}; it may send only answers and notifications"
            )
        elif not isinstance(params, dict):
            self._fault("P4", f"the driver sent a notification, {message['method']}, without named parameters")
        else:
            self.received.notes.append((str(message["method"]), params))
            self._noted.set()

    def _settle(self, message: Json) -> None:
        future = self._asked.get(message["id"]) if isinstance(message.get("id"), int) else None
        has_result, error = isinstance(message.get("result"), dict), message.get("error")
        if error is not None:
            self.received.errors.append(json.dumps(error))
        if future is None:
            self._fault("P8", f"the driver answered an unknown request, with id {message.get('id')!r}")
        elif future.done():
            self._fault("P8", f"the driver answered request {message['id']} twice")
        elif has_result == isinstance(error, dict):
            self._fault("P4", "the driver sent an answer without a result object or an error")
        else:
            future.set_result(message)

    def _fault(self, rule: str, what: str) -> None:
        self.received.faults.append((rule, what))

    async def noted(self, count: int, beside: asyncio.Future[Json]) -> bool:
        """Wait for *count* notifications or the answer *beside*. Return True if there were enough notifications."""
        while len(self.received.notes) < count and not beside.done():
            self._noted.clear()
            waiting = asyncio.ensure_future(self._noted.wait())
            both: set[asyncio.Future[Any]] = {waiting, beside}
            await asyncio.wait(both, timeout=self._answer_s, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                break
        return len(self.received.notes) >= count

    # -- speaking ---------------------------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        assert self._writer is not None  # noqa: S101  it has connected
        self._writer.write(json.dumps(message).encode() + b"\n")

    def note(self, method: str, params: Json) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def request(self, method: str, params: Json) -> tuple[int, asyncio.Future[Json]]:
        """Send a request without waiting. Return its id, and a future of the answer."""
        number = next(self._ids)
        self._asked[number] = asyncio.get_running_loop().create_future()
        if self._ended.is_set():
            raise ProbeError(f"the connection has ended{self._last_words()}")
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return number, self._asked[number]

    async def answer(self, future: asyncio.Future[Json], what: str, timeout_s: float | None = None) -> Json:
        """Wait for the answer and return its result. Raises: ProbeError, RefusedCall."""
        timeout_s = timeout_s or self._answer_s
        await asyncio.wait([future], timeout=timeout_s)
        if not future.done():
            raise ProbeError(f"{what} was not answered within {timeout_s:g} s")
        message = future.result()
        if "error" in message:
            raise RefusedCall(message["error"])
        result: Json = message["result"]
        return result

    async def ask(self, method: str, **params: Any) -> Json:
        """Call a method and return its result. Raises: ProbeError, RefusedCall."""
        self.asked = method
        _, future = self.request(method, {"deadline_s": self._answer_s, **params})
        return await self.answer(future, method)

    async def hello(self, **more: Any) -> Json:
        """Call ``handshake.hello`` and return the answer unchecked. Raises: ProbeError, RefusedCall."""
        nonce = new_nonce()
        launcher = {"name": "nodelaunch", "version": __version__}
        answer = await self.ask(
            m.HELLO.name, **{"protocol": CONTRACT.model_dump(), "launcher": launcher, "nonce": nonce, **more}
        )
        self._nonces = (nonce, str(answer.get("nonce")))
        return answer

    def proof(self, role: Any) -> str:
        return proof(self.token, role, *self._nonces)

    async def shake_hands(self, **more: Any) -> None:
        """Make the handshake as the launcher. Raises: ProbeError, RefusedCall."""
        await self.connected()
        await self.hello(**more)
        said = await self.ask(
            m.AUTHENTICATE.name, **{"protocol": CONTRACT.max, "proof": self.proof("launcher"), **more}
        )
        self.identity = m.Identity.model_validate(said)

    async def open(self, **more: Any) -> Json:
        """Make the handshake and call ``driver.open`` for the provider. Raises: ProbeError, RefusedCall."""
        await self.shake_hands(**more)
        return await self.ask(m.OPEN.name, provider=dict(self.program.provider), diskimages={}, **more)


def environment_of(command: Command) -> dict[str, str]:
    """Return the environment variables that a launcher gives to the driver of *command*."""
    return {name: os.environ[name] for name in (*ENVIRONMENT, *command.environment) if name in os.environ}


def descendants(mark: str) -> Iterator[tuple[int, int]]:
    """Yield the id and the session of each process whose initial environment contains *mark*."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and mark.encode() in (entry / "environ").read_bytes():
                    yield int(entry.name), int(fields[3])
            except OSError:
                continue  # the process has ended, or belongs to another user
