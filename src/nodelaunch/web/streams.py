"""Events of the launcher, as server-sent events: ``/events[?kinds=node_changed,request_ended]``.

Each event has its kind as type and its data as JSON. A client that reads too slowly gets the number of ``missed``
events, and the stream continues. Source of the format: the HTML standard, section on server-sent events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from nodelaunch.engine.events import EventHub
from nodelaunch.errors import EventsMissedError
from nodelaunch.protocol.events import KINDS, DriverCalled, Event

MAX_STREAMS: Final = 200
"""The most clients at the same time."""
SILENCE_S: Final = 15.0
"""Time without events after which a comment is sent, so that proxies keep the connection open."""
LIMIT: Final = 5000
"""The most events that wait for one client."""
USUAL: Final = tuple(kind for kind in KINDS.values() if kind is not DriverCalled)


class EventStreams:
    """Serves streams of *events*."""

    def __init__(self, events: EventHub) -> None:
        self._events = events
        self._open = 0

    async def respond(self, request: Request) -> Response:
        names = [name for name in request.query_params.get("kinds", "").split(",") if name]
        if unknown := [name for name in names if name not in KINDS]:
            text = f"unknown kind {', '.join(unknown)}; kinds: {', '.join(KINDS)}\n"
            return PlainTextResponse(text, 400)
        if self._open >= MAX_STREAMS:
            return PlainTextResponse(f"the limit of {MAX_STREAMS} clients that read events is reached\n", 503)
        kinds = [KINDS[name] for name in names] or USUAL
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(kinds), media_type="text/event-stream", headers=headers)

    async def _stream(self, kinds: Sequence[type[Event]]) -> AsyncIterator[str]:
        self._open += 1
        try:
            with self._events.stream(*kinds, limit=LIMIT) as events:
                yield ": nodelaunch\n\n"
                while True:
                    try:
                        async with asyncio.timeout(SILENCE_S):
                            event = await anext(events)
                    except TimeoutError:
                        yield ": still here\n\n"
                    except EventsMissedError as error:
                        yield _message("missed", {"count": error.count})
                    except StopAsyncIteration:
                        return
                    else:
                        yield _message(event.NAME, event.to_json())
        finally:
            self._open -= 1


def _message(kind: str, facts: object) -> str:
    return f"event: {kind}\ndata: {json.dumps(facts)}\n\n"
