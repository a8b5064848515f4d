"""Runs one command of a provider: a process with a clean environment that ends by its deadline, and with its caller.

It is started by the keeper that drivers in processes have, in a process group of its own: when the caller goes away,
or the whole launcher, the group is told to end and killed half a second later. What a provider starts in a session of
its own is left alone: it may be an instance.
What does *not* belong here: what the commands mean.
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
"""Bytes of an answer: a list of some 20,000 instances."""
LEAVE_S: Final = 1.0
"""How long output may come in after the end: what was started in a session of its own may have it open still."""
_CHUNK: Final = 1 << 16


class TooMuchOutputError(Exception):
    """The provider printed more than `MAX_OUTPUT`; it was killed."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    """128 more than the signal, if one killed it."""
    output: bytes
    said: str
    """Its last lines on standard error."""


async def run(
    argv: Sequence[str], told: Mapping[str, str], *, name: str, passed: Sequence[str] = (), given: bytes = b"",
    timeout_s: float, redact: Redactor = NOTHING,
) -> Done:  # fmt: skip
    """The outcome of one run of *argv*. *told*: its variables, besides the usual ones and those *passed* on;
    *given*: its standard input; *name*: the driver's, for the log; *redact*: done to what it says there.

    Nothing of the run is left when this returns, however it does. Raises: TimeoutError, TooMuchOutputError.
    """
    async with contextlib.AsyncExitStack() as stack:
        # Not asyncio's own pipes: its wait() lasts until nobody has them open, and an instance may.
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
    """A pipe that is closed with *stack*; its write end by `_start`."""
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
    """The keeper, and the descriptor whose closing ends it and what it keeps."""
    inherited = {name: os.environ[name] for name in (*ENVIRONMENT, *passed) if name in os.environ}
    theirs, ours = os.pipe()
    os.write(ours, b"s")  # sessions of their own are spared
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
    """Wait for the end. Raises: TooMuchOutputError as soon as there is too much."""
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
    """Wait until the keeper is gone, which by now it soon is, even if we are cancelled meanwhile."""
    waiting = asyncio.ensure_future(process.wait())
    patience = asyncio.get_running_loop().time() + 2 * watchdog.TERMINATE_S + LEAVE_S
    while not waiting.done():
        left = patience - asyncio.get_running_loop().time()
        if left < 0:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting], timeout=max(left, 0.1))
