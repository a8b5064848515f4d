"""Notifies subscribers of events.

Listeners are called at once, in the order in which they subscribed, with each event of the kinds that they asked for.
The events are in protocol/events.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, TypeVar

from nodelaunch.clock import Clock, WallClock
from nodelaunch.engine.view import (
    ClusterView,
    NodeRemoved,
    NodeSeen,
    RequestRemoved,
    RequestSeen,
    ViewEvent,
)
from nodelaunch.errors import EventsMissedError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.events import KINDS, DriverCalled, Event, NodeChanged, RequestChanged, SessionChanged
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.store import Session, Unsubscribe

log: Logger = get_logger(__name__)

E = TypeVar("E", bound=Event)

STREAM_LIMIT = 10_000
"""Events that a stream keeps for a slow reader."""


class EventHub:
    """The event hub of one launcher. Emitting costs a dictionary look-up if there is no listener."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or WallClock()
        self._listeners: dict[type[Event], tuple[Callable[[Event], object], ...]] = {}
        self._readers: set[_Reader[Any]] = set()
        self._sources: list[_Source] = []

    def now(self) -> float:
        """Return seconds since 1970."""
        return self._clock.now()

    def wants(self, kind: type[Event]) -> bool:
        """Return True if there is a listener for events of *kind*."""
        return kind in self._listeners

    def subscribe(self, listener: Callable[[E], object], *kinds: type[E]) -> Unsubscribe:
        """Call *listener* with each event of *kinds*, or of all kinds if none is named, until the returned function is
        called. The listener must not block; an error in it is logged and does not affect the emitter."""
        added: Callable[[Event], object] = listener  # type: ignore[assignment]  # it gets only the kinds that it asked for
        wanted: tuple[type[Event], ...] = kinds or tuple(KINDS.values())
        for kind in wanted:
            self._listeners[kind] = (*self._listeners.get(kind, ()), added)
        self._changed()

        def stop() -> None:
            for kind in wanted:
                rest = list(self._listeners[kind])
                rest.remove(added)
                if rest:
                    self._listeners[kind] = tuple(rest)
                else:
                    del self._listeners[kind]
            self._changed()

        return stop

    def emit(self, event: Event) -> None:
        """Call the listeners for such events."""
        for listener in self._listeners.get(type(event), ()):
            try:
                listener(event)
            except Exception:
                log.exception("listener_failed", kind=event.NAME)

    @contextmanager
    def stream(self, *kinds: type[E], limit: int = STREAM_LIMIT) -> Iterator[AsyncIterator[E]]:
        """Return an iterator over the events of *kinds* that happen inside the block; it ends when the launcher is
        closed.

        It raises EventsMissedError if *limit* events wait for the reader; the next one is then the oldest again.
        """
        reader: _Reader[E] = _Reader(limit)
        stop = self.subscribe(reader.put, *kinds)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            stop()

    def close(self) -> None:
        """Emit no more events: each stream ends when its reader has read all of them."""
        for reader in self._readers:
            reader.end()

    def calling(self, provider: str, call: str) -> AbstractContextManager[None]:
        """Emit an event for the driver's *call* that is made inside the block."""
        return _Call(self, provider, call) if DriverCalled in self._listeners else _UNTOLD

    def add_source(self, open_source: Callable[[], Unsubscribe], *kinds: type[Event]) -> Unsubscribe:
        """Call *open_source* when the first listener for one of *kinds* subscribes, and the function that it returns
        when the last listener unsubscribes or the source is removed."""
        source = _Source(open_source, frozenset(kinds))
        self._sources.append(source)
        source.see(self._listeners)

        def end() -> None:
            self._sources.remove(source)
            source.see({})

        return end

    def _changed(self) -> None:
        for source in self._sources:
            source.see(self._listeners)


class _Call(AbstractContextManager[None]):
    """A driver call for which an event is emitted."""

    __slots__ = ("_began", "_call", "_hub", "_provider", "_time")

    def __init__(self, hub: EventHub, provider: str, call: str) -> None:
        self._hub = hub
        self._provider = provider
        self._call = call

    def __enter__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._began = self._time()

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        took_s = self._time() - self._began
        error = None if kind is None else kind.__name__
        self._hub.emit(DriverCalled(self._hub.now(), self._provider, self._call, error, took_s))


_UNTOLD: Final = nullcontext()


class _Source:
    """A source of events, open while there are listeners."""

    def __init__(self, open_source: Callable[[], Unsubscribe], kinds: frozenset[type[Event]]) -> None:
        self._open_source = open_source
        self._kinds = kinds
        self._close: Unsubscribe | None = None

    def see(self, listened_to: Container[type[Event]]) -> None:
        is_wanted = any(kind in listened_to for kind in self._kinds)
        if is_wanted and self._close is None:
            self._close = self._open_source()
        elif not is_wanted and self._close is not None:
            close, self._close = self._close, None
            close()


class _Reader(AsyncIterator[E]):
    """Events that wait for their reader."""

    def __init__(self, limit: int) -> None:
        self._waiting: deque[E] = deque()
        self._limit = limit
        self._missed = 0
        self._is_ended = False
        self._came = asyncio.Event()

    def put(self, event: E) -> None:
        if len(self._waiting) >= self._limit:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(event)
        self._came.set()

    def end(self) -> None:
        self._is_ended = True
        self._came.set()

    async def __anext__(self) -> E:
        while not self._waiting:
            if self._is_ended:
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            raise EventsMissedError(missed)
        return self._waiting.popleft()


def emit_record_events(view: ClusterView, hub: EventHub) -> Unsubscribe:
    """Emit events from *hub* for nodes and requests that are created, changed or deleted in *view*. Without listeners,
    the view has no extra listener either."""

    def on_event(event: ViewEvent) -> None:
        match event:
            case NodeSeen(node_id, old):
                _node_changed(hub, old, view.nodes[node_id].record)
            case NodeRemoved(_, node):
                _node_changed(hub, node, None)
            case RequestSeen(request_id, old_request):
                _request_changed(hub, old_request, view.requests[request_id].record)
            case RequestRemoved(_, request):
                _request_changed(hub, request, None)

    def open_source() -> Unsubscribe:
        return view.subscribe(on_event, NodeSeen, NodeRemoved, RequestSeen, RequestRemoved)

    return hub.add_source(open_source, NodeChanged, RequestChanged)


def tell_of_session(session: Session, hub: EventHub) -> Unsubscribe:
    """Emit events from *hub* for the states of *session*."""
    return session.subscribe(lambda state: hub.emit(SessionChanged(hub.now(), state.value)))


def _node_changed(hub: EventHub, old: Node | None, new: Node | None) -> None:
    node = new or old
    if node is None or not hub.wants(NodeChanged):
        return
    before, after = (None if each is None else each.state.value for each in (old, new))
    if before != after:
        hub.emit(
            NodeChanged(
                hub.now(), node.id, node.provider, node.pool, node.type, before, after, node.allocated_to or None
            )
        )


def _request_changed(hub: EventHub, old: NodeRequest | None, new: NodeRequest | None) -> None:
    request = new or old
    if request is None or not hub.wants(RequestChanged):
        return
    before, after = (None if each is None else each.state.value for each in (old, new))
    if before != after:
        hub.emit(RequestChanged(hub.now(), request.id, before, after, request.node_types, request.requestor))
