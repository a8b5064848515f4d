"""Implements both ends of a connection: calls with deadlines, answers, notifications, cancellation. JSON-RPC 2.0, one
per line.

The end of the connection ends the peer, and every call under way fails. A line that is too long or not a message has
the same effect, because the messages after it could not be trusted.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeGuard

from nodelaunch.driverhost.wire.messages import CANCEL, MAX_LINE

METHOD_NOT_FOUND, INVALID_PARAMS, DRIVER_ERROR = -32601, -32602, -32000
"""Codes of errors. The ``data`` of DRIVER_ERROR is a FaultInfo. Source: JSON-RPC 2.0."""
CANCEL_GRACE_S: Final = 10.0
"""How long to wait for the answer to a cancelled call."""
AT_A_TIME: Final = 50
"""Messages that are read before other tasks get their turn."""
MAX_GIVEN_UP: Final = 10_000
"""Most cancelled calls whose late answers are still recognised."""

Json = dict[str, Any]
Answer = Callable[[str, Json, int], Awaitable[Json]]
"""Function that answers a call of a method, given its parameters and id. Raises: RpcError."""
Notice = Callable[[str, Json], None]
Stray = Callable[[str], None]
"""Function that gets a text about an answer without a matching call."""


class RpcError(Exception):
    """An error that the other end sent, or that is to be sent to the other end."""

    def __init__(self, code: int, message: str, data: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data: Json = data or {}


class ConnectionEndedError(Exception):
    """The connection has ended; the outcome of the call is unknown."""


class GarbageError(Exception):
    """The other end sent an invalid message."""


Outcome = Json | RpcError | None
"""The outcome of a cancelled call: its result, its error, or None if no answer came."""


async def no_answer(method: str, _params: Json, _id: int) -> Json:
    """Refuse all calls."""
    raise RpcError(METHOD_NOT_FOUND, f"there is no method {method} here")


class Peer:
    """A peer of a connection. *answer* gets calls, *notice* gets notifications. Run `run` beside the calls."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        answer: Answer = no_answer,
        notice: Notice = lambda _method, _params: None,
        stray: Stray = lambda _what: None,
        most_asked: int | None = None,
    ) -> None:
        """*most_asked*: most unanswered requests of the other end; None: no limit."""
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._notice = notice
        self._stray = stray
        self._most_asked = most_asked
        self._ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Json]] = {}
        self._given_up: dict[int, None] = {}
        """Unanswered calls for which no caller waits any more, oldest first."""
        self._answering: dict[int, asyncio.Task[None]] = {}
        self.ended: str | None = None
        """Why the connection ended; None until it ends."""
        self.heard: int = 0
        """Number of messages received."""

    @property
    def is_idle(self) -> bool:
        return not self._calls

    def awaits(self, number: int) -> bool:
        """Return True if the call with this id has no answer yet."""
        return number in self._calls

    # -- sending ----------------------------------------------------------------------------------------------------

    def send(self, message: Json) -> None:
        """Send *message*. Raises: ValueError if it is too long."""
        line = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"a message of {len(line)} bytes; {MAX_LINE} are allowed")
        if self.ended is None:
            self._writer.write(line)

    def note(self, method: str, params: Json) -> None:
        self.send({"method": method, "params": params})

    async def call(
        self,
        method: str,
        params: Json,
        *,
        timeout_s: float,
        on_id: Callable[[int], None] = lambda _number: None,
        on_given_up: Callable[[Outcome], None] | None = None,
    ) -> Json:
        """Return the result of a call; *on_id* gets the call's id before it is sent.

        When the call is cancelled or times out, the other end gets a cancellation. With *on_given_up*, the method then
        waits up to `CANCEL_GRACE_S` for the outcome and passes it on.
        Raises: RpcError, ConnectionEndedError, TimeoutError.
        """
        if self.ended is not None:
            raise ConnectionEndedError(self.ended)
        number = next(self._ids)
        on_id(number)
        result: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._calls[number] = result
        try:
            self.send({"id": number, "method": method, "params": params})
            async with asyncio.timeout(timeout_s):
                await self._writer.drain()
                await asyncio.wait([result])
            return result.result()
        except (asyncio.CancelledError, TimeoutError):
            if not result.done():
                self.note(CANCEL, {"id": number})
            if on_given_up is not None:
                await _to_the_end(asyncio.wait([result], timeout=CANCEL_GRACE_S))
                on_given_up(_outcome(result))
            raise
        except (ConnectionError, ValueError) as error:
            raise ConnectionEndedError(str(error)) from None
        finally:
            del self._calls[number]
            if result.done():
                result.exception()  # mark as retrieved: possibly no caller reads it
            else:
                self._give_up(number)

    def _give_up(self, number: int) -> None:
        self._given_up[number] = None
        if len(self._given_up) > MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    # -- receiving --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Process messages until the connection ends. Raises: GarbageError."""
        garbage: GarbageError | None = None
        async with asyncio.TaskGroup() as group:
            try:
                while (message := await self._next()) is not None:
                    self.heard += 1
                    self._take(message, group)
                    if self.heard % AT_A_TIME == 0:
                        await asyncio.sleep(0)  # reading buffered lines does not yield to other tasks
            except GarbageError as error:
                garbage = error
            except ConnectionError:
                pass
            finally:
                # End our own calls first: a cancelled answer may wait for the outcome of such a call.
                self.end(str(garbage or "the connection ended"))
                for task in self._answering.values():
                    task.cancel()
        if garbage is not None:
            raise garbage

    async def _next(self) -> Json | None:
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise GarbageError("the connection ended in the middle of a line") from None
            return None
        except asyncio.LimitOverrunError:
            raise GarbageError(f"it sent a line longer than {MAX_LINE} bytes") from None
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise GarbageError(f"it sent invalid JSON: {_start(line)}") from None
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            raise GarbageError(f"it sent a message that is not JSON-RPC 2.0: {_start(line)}")
        return message

    def _take(self, message: Json, group: asyncio.TaskGroup) -> None:
        method, number, params = message.get("method"), message.get("id"), message.get("params", {})
        if method is None:
            self._settle(message)
        elif not isinstance(method, str) or not isinstance(params, dict):
            raise GarbageError("it sent a request without a method name or without named parameters")
        elif number is None:
            self._take_note(method, params)
        elif self._most_asked is not None and len(self._answering) >= self._most_asked:
            raise GarbageError(f"it has more than {self._most_asked} unanswered requests")
        elif _is_id(number) and number not in self._answering:
            self._answering[number] = task = group.create_task(self._give_answer(method, params, number))
            task.add_done_callback(lambda task: self._answered(number, task))
        else:
            raise GarbageError("it sent a request with an id that is not a number, or is in use")

    def _settle(self, message: Json) -> None:
        number, error = message.get("id"), message.get("error")
        result = self._calls.get(number) if _is_id(number) else None
        if result is None or result.done():
            if not _is_id(number) or self._given_up.pop(number, self) is self:
                self._stray(_of_what(number, error))
            return  # a late answer to a cancelled call is valid
        if isinstance(error, dict):
            code, data = error.get("code"), error.get("data")
            code = code if isinstance(code, int) else DRIVER_ERROR
            text = _text_of(error) or "no reason given"
            result.set_exception(RpcError(code, text, data if isinstance(data, dict) else None))
        elif isinstance(message.get("result"), dict):
            result.set_result(message["result"])
        else:
            raise GarbageError("it sent an answer without a result object or an error")

    def _take_note(self, method: str, params: Json) -> None:
        if method == CANCEL:
            number = params.get("id")
            if _is_id(number) and number in self._answering:
                self._answering[number].cancel()
        else:
            self._notice(method, params)

    async def _give_answer(self, method: str, params: Json, number: int) -> None:
        try:
            answer: Json = {"result": await self._answer(method, params, number)}
        except RpcError as error:
            answer = {"error": {"code": error.code, "message": str(error), "data": error.data}}
        try:
            self.send({"id": number, **answer})
        except ValueError as error:
            self.send({"id": number, "error": {"code": DRIVER_ERROR, "message": str(error), "data": {}}})
        with suppress(ConnectionError):
            await self._writer.drain()

    def _answered(self, number: int, task: asyncio.Task[None]) -> None:
        del self._answering[number]
        if task.cancelled():  # cancelled before it started
            data = {"kind": "cancelled", "may_exist": False}
            self.send({"id": number, "error": {"code": DRIVER_ERROR, "message": "cancelled", "data": data}})

    # -- ending -----------------------------------------------------------------------------------------------------

    def end(self, why: str) -> None:
        """Fail all calls and close the connection."""
        if self.ended is not None:
            return
        self.ended = why
        for result in self._calls.values():
            if not result.done():
                result.set_exception(ConnectionEndedError(why))
        self._writer.close()


async def _to_the_end(work: Coroutine[Any, Any, object]) -> None:
    """Await *work*, which is short, to its end, and ignore cancellations until then."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])


def _outcome(result: asyncio.Future[Json]) -> Outcome:
    if not result.done():
        return None
    error = result.exception()
    if error is None:
        return result.result()
    return error if isinstance(error, RpcError) else None


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _text_of(error: Json) -> str:
    text = error.get("message")
    return text if isinstance(text, str) else ""


def _of_what(number: Any, error: Any) -> str:
    """Return a description of an answer with this id and error."""
    if number is None:
        kind = "no id"
    elif _is_id(number):
        kind = f"id {number if -(1 << 63) <= number < 1 << 63 else 'of more than 64 bits'}, which has no open call"
    else:
        kind = "an id that is not a number"

    text = _text_of(error) if isinstance(error, dict) else ""
    return f"an answer with {kind}" + (f", and the error: {text}" if text else "")


def _start(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace"))
