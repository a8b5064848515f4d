"""Runs one command of a provider in a process with a clean environment, which ends by its deadline and with its caller.

The watchdog of driver processes starts the command in a process group of its own. When the caller or the launcher ends,
the watchdog sends SIGTERM to the group, and SIGKILL half a second later. Processes in sessions of their own survive:
they may be instances.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nodelaunch.driverhost.process import watchdog
from nodelaunch.driverhost.process.child import ENVIRONMENT, Tail
from nodelaunch.driverhost.process.redaction import NOTHING, Redactor

MAX_OUTPUT: Final = 8 << 20
"""Largest answer in bytes: a list of some 20,000 instances."""
LEAVE_S: Final = 1.0
"""Time limit for output after the end of the process. Processes in sessions of their own may still have the pipe
open."""
_CHUNK: Final = 1 << 16


class TooMuchOutputError(Exception):
    """The provider printed more than `MAX_OUTPUT`; it was killed."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a command."""

    code: int
    """Exit code; 128 plus the signal's number if a signal ended the process."""
    output: bytes
    said: str
    """Last lines on standard error."""


async def run(
    argv: Sequence[str], told: Mapping[str, str], *, name: str, passed: Sequence[str] = (), given: bytes = b"",
    timeout_s: float, redact: Redactor = NOTHING,
) -> Done:  # fmt: skip
    """Run *argv* once and return the result.

    ``told``: environment variables, added to the usual ones and to the variables *passed* on; *given*: standard input;
    *name*: the driver's name in the log; *redact*: applied to the log. No process of the run is left on return, except
    those in sessions of their own. Raises: TimeoutError, TooMuchOutputError.
    """
    async with contextlib.AsyncExitStack() as stack:
        # Not asyncio's own pipes: its wait() lasts until all processes have closed them, and an instance may keep them
        # open.
        output, said = await _pipe(stack), await _pipe(stack)
        process, lifeline = await _start(argv, told, passed, given, output.write_end, said.write_end)
        answer, tail = bytearray(), Tail(name, redact)
        reading = [
            asyncio.ensure_future(_collect(output.reader, answer)),
            asyncio.ensure_future(tail.read(said.reader)),
        ]
        try:
            async with asyncio.timeout(timeout_s):
                await _exited(process, reading[0])
                await asyncio.wait(reading, timeout=LEAVE_S)
                if reading[0].done():
                    reading[0].result()
        finally:
            os.close(lifeline)
            for task in reading:
                task.cancel()
            await _to_the_end(process)
            await asyncio.gather(*reading, return_exceptions=True)
    code = process.returncode if process.returncode is not None and process.returncode >= 0 else 128
    return Done(code, bytes(answer), " | ".join(line for line in tail.lines if line.strip()))


@dataclass(slots=True)
class _Pipe:
    reader: asyncio.StreamReader
    write_end: int


async def _pipe(stack: contextlib.AsyncExitStack) -> _Pipe:
    """Open a pipe. *stack* closes its read end, `_start` its write end."""
    theirs, ours = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(theirs, "rb", 0)
    )
    stack.callback(transport.close)
    return _Pipe(reader, ours)


async def _start(
    argv: Sequence[str], told: Mapping[str, str], passed: Sequence[str], given: bytes, output: int, said: int
) -> tuple[asyncio.subprocess.Process, int]:
    """Start the watchdog. Return it and the descriptor whose closing ends the watchdog and its process group."""
    inherited = {name: os.environ[name] for name in (*ENVIRONMENT, *passed) if name in os.environ}
    theirs, ours = os.pipe()
    os.write(ours, b"s")  # leave processes in sessions of their own alone
    nothing, standard_input = os.open(os.devnull, os.O_RDONLY), os.memfd_create("standard input")
    try:
        os.write(standard_input, given)
        os.lseek(standard_input, 0, os.SEEK_SET)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", watchdog.__file__, str(theirs), str(nothing), "0", *argv,
            stdin=standard_input, stdout=output, stderr=said,
            env={**inherited, **told}, pass_fds=(theirs, nothing), start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(ours)
        raise
    finally:
        for descriptor in (theirs, nothing, standard_input, output, said):
            os.close(descriptor)
    return process, ours


async def _exited(process: asyncio.subprocess.Process, collecting: asyncio.Future[None]) -> None:
    """Wait until the process ends. Raises: TooMuchOutputError as soon as the output exceeds its limit."""
    exiting = asyncio.ensure_future(process.wait())
    try:
        while not exiting.done():
            pending: list[asyncio.Future[Any]] = [exiting] if collecting.done() else [exiting, collecting]
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if collecting.done():
                collecting.result()
    finally:
        exiting.cancel()


async def _collect(stream: asyncio.StreamReader, into: bytearray) -> None:
    while chunk := await stream.read(_CHUNK):
        into += chunk
        if len(into) > MAX_OUTPUT:
            raise TooMuchOutputError


async def _to_the_end(process: asyncio.subprocess.Process) -> None:
    """Wait until the watchdog has ended, even if this task is cancelled; kill the watchdog if it takes too long."""
    waiting = asyncio.ensure_future(process.wait())
    patience = asyncio.get_running_loop().time() + 2 * watchdog.TERMINATE_S + LEAVE_S
    while not waiting.done():
        left = patience - asyncio.get_running_loop().time()
        if left < 0:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting], timeout=max(left, 0.1))
