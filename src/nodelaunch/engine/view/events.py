"""Records as of one version, and the events that notify listeners of changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nodelaunch.errors import RecordInvalidError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.pauses import Pause
from nodelaunch.protocol.records import (
    ImageBuild,
    ImageUpload,
    KnownPool,
    Node,
    NodeRequest,
    PoolRegistration,
    Presence,
)
from nodelaunch.protocol.store import Entry, Unsubscribe

log: Logger = get_logger(__name__)

R = TypeVar("R", NodeRequest, Node, PoolRegistration, ImageBuild, ImageUpload, Presence, KnownPool, Pause)


class Versioned(Generic[R]):
    """A record as of one version of its znode. Immutable by agreement; compared by identity.

    ``modified_zxid`` orders all changes of the store. ``created_at`` and ``modified_at`` are seconds since 1970.
    """

    __slots__ = ("created_at", "modified_at", "modified_zxid", "path", "record", "version")

    def __init__(self, record: R, entry: Entry) -> None:
        """*record* is the decoded *entry*. The entry and its bytes are not kept."""
        stat = entry.stat
        self.record: R = record
        self.path: str = entry.path
        self.version: int = stat.version
        self.modified_zxid: int = stat.modified_zxid
        self.created_at: float = stat.created_at
        self.modified_at: float = stat.modified_at

    def __repr__(self) -> str:
        return f"Versioned({self.record!r}, version={self.version})"


# -- events for listeners -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RequestSeen:
    """A request is new or changed."""

    id: RequestId
    old: NodeRequest | None
    """The version before; None for a new request."""


@dataclass(slots=True)
class RequestRemoved:
    id: RequestId
    request: NodeRequest


@dataclass(slots=True)
class RequestUnlocked:
    """The last contender for a request's lock was removed."""

    id: RequestId


@dataclass(slots=True)
class NodeSeen:
    """A node is new or changed."""

    id: NodeId
    old: Node | None
    """The version before; None for a new node."""


@dataclass(slots=True)
class NodeRemoved:
    id: NodeId
    node: Node


@dataclass(slots=True)
class NodeUnlocked:
    """The last contender for a node's lock was removed."""

    id: NodeId


@dataclass(slots=True)
class IdleNodeSeen:
    """A node became idle, or changed and is still idle. Sent after `NodeSeen`."""

    id: NodeId


@dataclass(slots=True)
class IdleNodeGone:
    """An idle node is not idle any more, or was removed. Sent after `NodeSeen` or `NodeRemoved`."""

    id: NodeId
    node: Node
    """The version before."""


@dataclass(slots=True)
class MinReadyRequestChanged:
    """A min-ready request was created, changed or deleted. Sent after `RequestSeen` or `RequestRemoved`."""

    id: RequestId


@dataclass(slots=True)
class PoolsChanged:
    """A pool registered, changed or left; or the record of a known pool changed."""


@dataclass(slots=True)
class PresencesChanged:
    """A nodelaunch process started, changed or left."""


@dataclass(slots=True)
class PausesChanged:
    """An operator paused or resumed a pool, a provider or a launcher."""


@dataclass(slots=True)
class ImagesChanged:
    """A build or upload of an image started, became usable, or stopped being usable."""


@dataclass(slots=True)
class ViewSynced:
    """The view is complete and current. A listener looks once at everything it follows."""


@dataclass(slots=True)
class ViewStale:
    """The view may be stale from here on. No other event is sent until `ViewSynced`."""


ViewEvent = (
    RequestSeen | RequestRemoved | RequestUnlocked | NodeSeen | NodeRemoved | NodeUnlocked | IdleNodeSeen
    | IdleNodeGone | MinReadyRequestChanged | PoolsChanged
    | PresencesChanged | PausesChanged | ImagesChanged | ViewSynced | ViewStale
)  # fmt: skip
KINDS: tuple[type[ViewEvent], ...] = (
    RequestSeen, RequestRemoved, RequestUnlocked, NodeSeen, NodeRemoved, NodeUnlocked, IdleNodeSeen,
    IdleNodeGone, MinReadyRequestChanged, PoolsChanged,
    PresencesChanged, PausesChanged, ImagesChanged, ViewSynced, ViewStale,
)  # fmt: skip
Listener = Callable[[Any], None]
"""Called with events of the kinds it asked for."""
Listeners = tuple[Listener, ...]


class Notifier:
    """Notifies listeners of changes while the view is current; the base of all parts of the view.

    Invariants: no listener is called for a kind it did not ask for; no entry is left without a listener.
    """

    def __init__(self) -> None:
        self.is_synced = False
        """True if complete and current. While false, nothing may be concluded from a missing record."""
        self.unreadable: dict[str, bool] = {}
        """Paths of znodes whose data is no record, and True if there is no data at all."""
        self._listeners: dict[type[ViewEvent], Listeners] = dict.fromkeys(KINDS, ())
        self._by_provider: dict[str, Listeners] = {}

    def subscribe(self, listener: Listener, *kinds: type[ViewEvent]) -> Unsubscribe:
        """Call *listener* with each `ViewEvent` of these *kinds* from now on, of all kinds if none is named; it must
        not block and must not raise."""
        wanted = kinds or KINDS
        for kind in wanted:
            self._listeners[kind] += (listener,)

        def stop() -> None:
            for kind in wanted:
                self._listeners[kind] = _without(self._listeners[kind], listener)

        return stop

    def subscribe_to_provider(self, provider: str, listener: Listener) -> Unsubscribe:
        """Call *listener* with each `NodeSeen`, `NodeRemoved` and `NodeUnlocked` of a node that is, or just was,
        *provider*'s; it must not block and must not raise."""
        self._by_provider[provider] = (*self._by_provider.get(provider, ()), listener)

        def stop() -> None:
            rest = _without(self._by_provider[provider], listener)
            if rest:
                self._by_provider[provider] = rest
            else:
                del self._by_provider[provider]

        return stop

    def _notify(self, event: ViewEvent) -> None:
        if self.is_synced:
            for listener in self._listeners[type(event)]:
                listener(event)

    def _notify_of_node(self, event: ViewEvent, provider: str | None, before: str | None) -> None:
        """Send an event about a node of *provider* that was *before*'s until now."""
        if not self.is_synced:
            return
        for listener in self._listeners[type(event)]:
            listener(event)
        if self._by_provider:
            if provider is not None:
                for listener in self._by_provider.get(provider, ()):
                    listener(event)
            if before != provider and before is not None:
                for listener in self._by_provider.get(before, ()):
                    listener(event)

    def _mark_readable(self, path: str) -> None:
        """Note that *path* has a readable record, or was removed."""
        self.unreadable.pop(path, None)

    def _mark_unreadable(self, entry: Entry, error: RecordInvalidError) -> None:
        """Leave an entry alone that is no record; it is logged once for each version."""
        self.unreadable[entry.path] = not entry.data
        log.warning("record_unreadable", path=error.path, detail=error.detail, version=entry.stat.version)


def _without(listeners: Listeners, listener: Listener) -> Listeners:
    rest = list(listeners)
    rest.remove(listener)
    return tuple(rest)
