"""Speaks with a driver's process word by word, as no launcher would, and writes down what it does wrong.

It has nothing of the launcher's side but the messages' models, so that a driver is held to the contract and not to
what one launcher puts up with; and no keeper stands between, so that the driver has to clean up by itself.
What does *not* belong here: what has to be asked, and judged (wirechecks.py, crashes.py).
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
"""For the last output of a process whose connection ended."""
ROOM: Final = 8 << 20
"""Bytes of a line that are read, to tell how much too long it is."""
_HANDED_OVER: Final = """\
import os, sys
given = int(sys.argv[1])
os.set_inheritable(3, True) if given == 3 else os.dup2(given, 3)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Gives the token as descriptor 3, as the launcher's keeper does."""


@dataclass(frozen=True, slots=True)
class DriverProgram:
    """A driver's executable, and the provider it is to work for."""

    command: Command
    provider: Mapping[str, Any]
    """Its mapping in a configuration, as the driver is told it."""
    has_local_processes: bool = False
    """Whether a process of it in a session of its own is an instance."""
    is_remote: bool = False
    """Whether the command only leads to a driver that somebody else started: there is a session, but no process."""


class ProbeError(Exception):
    """The driver did not answer, or is gone; the text says how."""


class RefusedCall(Exception):  # noqa: N818  it is an answer
    """An error, as the driver gave it."""

    def __init__(self, error: Json) -> None:
        super().__init__(str(error.get("message", "")))
        self.code: Any | None = error.get("code")
        self.data: Json = error["data"] if isinstance(error.get("data"), dict) else {}

    @property
    def kind(self) -> str | None:
        return self.data.get("kind")


@dataclass(slots=True)
class Heard:
    """All that a process said."""

    faults: list[tuple[str, str]] = field(default_factory=list)
    """What no driver may say: the rule, and what it was."""
    notes: list[tuple[str, Json]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    output: bytearray = field(default_factory=bytearray)
    connections: int = 0

    def against(self, *rules: str) -> list[str]:
        return [what for rule, what in self.faults if rule in rules]


class Probe:
    """One run of a driver. `start` it; `aclose` leaves nothing of it."""

    def __init__(
        self, program: DriverProgram, *, answer_s: float = 20.0, environment: Mapping[str, str] | None = None
    ) -> None:
        self.program = program
        self.heard: Heard = Heard()
        self.token: str = new_token()
        self.identity: m.Identity = m.Identity(name="")
        self._answer_s = answer_s
        self.asked: str = ""
        """The method that was asked last."""
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
        """Start the process. Raises: ProbeError when it can't be."""
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
        """Wait until it has connected. Raises: ProbeError."""
        await self._first(self._connected, START_S, "it has not connected")

    async def ended(self, timeout_s: float) -> bool:
        """Whether the process ends within *timeout_s*."""
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
        """As a machine out of memory would, and the launcher then with its group."""
        for pid in (self.pid, *self.group()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def group(self) -> list[int]:
        """Processes it started that are not instances."""
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
            why = "and is gone" if done else f"within {timeout_s:g} s"
            raise ProbeError(f"{otherwise} {why}{self._last_words()}")

    def _last_words(self) -> str:
        lines = bytes(self.heard.output[-2000:]).decode(errors="replace").strip().splitlines()
        return f"; its last output: {' | '.join(lines[-3:])}" if lines else ""

    # -- hearing ----------------------------------------------------------------------------------------------------

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  it was asked for
        while chunk := await process.stdout.read(1 << 16):
            self.heard.output += chunk
        self._ended.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.connections += 1
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
                self._fault("P4", f"it sent a line longer than {ROOM} bytes")
        await asyncio.wait([self._listening], timeout=WORDS_S)
        self._ended.set()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ProbeError(f"the connection ended{self._last_words()}"))
                future.exception()  # nobody may be waiting

    def _take(self, line: bytes) -> None:
        if len(line) > m.MAX_LINE:
            self._fault("P4", f"it sent a line of {len(line)} bytes; {m.MAX_LINE} are allowed")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._fault("P4", f"it sent what is no JSON: {line[:60].decode(errors='replace')!r}")
            return
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            self._fault("P4", f"it sent what is no JSON-RPC 2.0 message: {line[:60].decode(errors='replace')!r}")
        elif "method" in message:
            self._take_note(message)
        else:
            self._settle(message)

    def _take_note(self, message: Json) -> None:
        params = message.get("params", {})
        if message.get("id") is not None:
            self._fault("P4", f"it sent a request, {message['method']}; there is nothing a driver may ask")
        elif not isinstance(params, dict):
            self._fault("P4", f"it sent a notification, {message['method']}, without named parameters")
        else:
            self.heard.notes.append((str(message["method"]), params))
            self._noted.set()

    def _settle(self, message: Json) -> None:
        future = self._asked.get(message["id"]) if isinstance(message.get("id"), int) else None
        has_result, error = isinstance(message.get("result"), dict), message.get("error")
        if error is not None:
            self.heard.errors.append(json.dumps(error))
        if future is None:
            self._fault("P8", f"it answered what was never asked, with id {message.get('id')!r}")
        elif future.done():
            self._fault("P8", f"it answered request {message['id']} twice")
        elif has_result == isinstance(error, dict):
            self._fault("P4", "it sent an answer without either a result that is an object or an error")
        else:
            future.set_result(message)

    def _fault(self, rule: str, what: str) -> None:
        self.heard.faults.append((rule, what))

    async def noted(self, count: int, beside: asyncio.Future[Json]) -> bool:
        """Wait until it has sent so many notifications or answered *beside*; whether it was the former."""
        while len(self.heard.notes) < count and not beside.done():
            self._noted.clear()
            waiting = asyncio.ensure_future(self._noted.wait())
            both: set[asyncio.Future[Any]] = {waiting, beside}
            await asyncio.wait(both, timeout=self._answer_s, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                break
        return len(self.heard.notes) >= count

    # -- speaking ---------------------------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        assert self._writer is not None  # noqa: S101  it has connected
        self._writer.write(json.dumps(message).encode() + b"\n")

    def note(self, method: str, params: Json) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def request(self, method: str, params: Json) -> tuple[int, asyncio.Future[Json]]:
        """Ask without waiting: the request's id, and where its answer will be."""
        number = next(self._ids)
        self._asked[number] = asyncio.get_running_loop().create_future()
        if self._ended.is_set():
            raise ProbeError(f"the connection has ended{self._last_words()}")
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return number, self._asked[number]

    async def answer(self, future: asyncio.Future[Json], what: str, timeout_s: float | None = None) -> Json:
        """The result. Raises: ProbeError, Refusal."""
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
        """The result of a call. Raises: ProbeError, Refusal."""
        self.asked = method
        _, future = self.request(method, {"deadline_s": self._answer_s, **params})
        return await self.answer(future, method)

    async def hello(self, **more: Any) -> Json:
        """Say hello; the driver's answer, whatever is in it. Raises: ProbeError, Refusal."""
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
        """Be the launcher it was started by. Raises: ProbeError, Refusal."""
        await self.connected()
        await self.hello(**more)
        said = await self.ask(
            m.AUTHENTICATE.name, **{"protocol": CONTRACT.max, "proof": self.proof("launcher"), **more}
        )
        self.identity = m.Identity.model_validate(said)

    async def open(self, **more: Any) -> Json:
        """Shake hands, and have it work for the provider. Raises: ProbeError, Refusal."""
        await self.shake_hands(**more)
        return await self.ask(m.OPEN.name, provider=dict(self.program.provider), diskimages={}, **more)


def environment_of(command: Command) -> dict[str, str]:
    """The variables a launcher gives the driver of *command*."""
    return {name: os.environ[name] for name in (*ENVIRONMENT, *command.environment) if name in os.environ}


def descendants(mark: str) -> Iterator[tuple[int, int]]:
    """Processes with *mark* in the environment they were started with: each one's id and its session's."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and mark.encode() in (entry / "environ").read_bytes():
                    yield int(entry.name), int(fields[3])
            except OSError:
                continue  # it ended meanwhile, or is somebody else's
