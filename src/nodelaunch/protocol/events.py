"""The events of a launcher, as typed facts: metrics, traces, pages and host applications are made of them.

No decision depends on an event. Times are seconds since 1970, durations seconds. engine/events.py notifies listeners.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from msgspec import Struct
from msgspec.structs import asdict

from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.verdicts import Reason

Stage = tuple[str, float]
"""The name of a stage of a launch, and its duration in seconds."""


class Event(Struct, frozen=True):
    """An event; ``at`` is its time."""

    NAME: ClassVar[str] = ""
    at: float

    def to_json(self) -> dict[str, Any]:
        """Return the event with plain values: ``event`` is its name, reasons are sentences, stages are by name."""
        facts = {name: _plain(value) for name, value in asdict(self).items()}
        if "reasons" in facts:
            facts["reasons"] = [str(reason) for reason in self.reasons]  # type: ignore[attr-defined]
        if "stages" in facts:
            facts["stages"] = dict(self.stages)  # type: ignore[attr-defined]
        return {"event": self.NAME, **facts}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class RequestChanged(Event, frozen=True):
    """A node request was created, changed its state, or was deleted, by any process."""

    NAME: ClassVar[str] = "request_changed"
    request_id: RequestId
    old_state: str | None
    """The previous state; None for a new request."""
    state: str | None
    """The new state; None for a deleted request."""
    labels: tuple[str, ...]
    requestor: str | None


class RequestDecided(Event, frozen=True):
    """A pool of this launcher decided on a request, for other kinds of reasons than before.

    ``decision``: ``accepted``, ``deferred`` or ``declined``.
    """

    NAME: ClassVar[str] = "request_decided"
    request_id: RequestId
    provider: str
    pool: str
    decision: str
    reasons: tuple[Reason, ...]


class RequestNoted(Event, frozen=True):
    """A cloud's error, or another event of a cloud, affected a request in work; ``what`` describes it."""

    NAME: ClassVar[str] = "request_noted"
    request_id: RequestId
    provider: str
    pool: str
    what: str


class RequestEnded(Event, frozen=True):
    """This launcher's work on a request ended.

    ``outcome``: ``fulfilled``, ``declined``, ``handed_back``, ``gone`` or ``lost``. ``took_s``: since the launcher
    started; ``age_s``: since the request was made.
    """

    NAME: ClassVar[str] = "request_ended"
    request_id: RequestId
    provider: str
    pool: str
    outcome: str
    labels: tuple[str, ...]
    nodes: tuple[NodeId, ...]
    reasons: tuple[object, ...]
    requestor: str | None
    event_id: str | None
    """Zuul's id of the change that the request is for."""
    took_s: float
    age_s: float


class NodeChanged(Event, frozen=True):
    """A node was created, changed its state, or was deleted, by any process."""

    NAME: ClassVar[str] = "node_changed"
    node_id: NodeId
    provider: str | None
    pool: str | None
    labels: tuple[str, ...]
    old_state: str | None
    """The previous state; None for a new node."""
    state: str | None
    """The new state; None for a deleted node."""
    request_id: str | None
    """The request that the node is allocated to."""


class LaunchEnded(Event, frozen=True):
    """An attempt to launch a node ended.

    ``result``: ``ready``; ``failed``; ``aborted`` if the cloud had no capacity; ``cancelled`` if the node is not wanted
    any more. ``stages`` are in order: ``queue`` from the request until the attempt, ``quota`` the wait for capacity,
    ``create`` the call, ``active`` until the instance runs, ``keys`` until its host keys were read.
    """

    NAME: ClassVar[str] = "launch_ended"
    request_id: RequestId
    node_id: NodeId | None
    """The node's id; None if it had no record yet."""
    provider: str
    pool: str
    label: str
    zone: str | None
    requestor: str | None
    attempt: int
    result: str
    error: str | None
    """The class of the error; None if there was none."""
    detail: str | None
    took_s: float
    so_far_s: float
    """Seconds since the start of the first attempt to launch this node."""
    stages: tuple[Stage, ...]


class DriverCalled(Event, frozen=True):
    """A driver was called. ``call``: ``create``, ``wait``, ``delete``, ``refresh`` or ``list``."""

    NAME: ClassVar[str] = "driver_called"
    provider: str
    call: str
    error: str | None
    """The class of the error; None if the call succeeded."""
    took_s: float


class LeaksSeen(Event, frozen=True):
    """A provider was searched for leaked resources: the number of each kind."""

    NAME: ClassVar[str] = "leaks_seen"
    provider: str
    kinds: tuple[tuple[str, int], ...]


class LeakDeleted(Event, frozen=True):
    """A leaked resource was deleted."""

    NAME: ClassVar[str] = "leak_deleted"
    provider: str
    kind: str
    external_id: str


class BreakerChanged(Event, frozen=True):
    """A breaker opened after repeated failures, or closed."""

    NAME: ClassVar[str] = "breaker_changed"
    provider: str
    what: str
    is_open: bool
    detail: str | None


class ConfigurationRead(Event, frozen=True):
    """The configuration was read again. ``is_in_force`` is true if it had no errors."""

    NAME: ClassVar[str] = "configuration_read"
    is_in_force: bool
    problems: tuple[str, ...]


class SessionChanged(Event, frozen=True):
    """The state of the session with the store changed: ``connected``, ``suspended``, ``doubtful`` or ``lost``."""

    NAME: ClassVar[str] = "session_changed"
    state: str


KINDS: Final[Mapping[str, type[Event]]] = {
    kind.NAME: kind
    for kind in (
        RequestChanged, RequestDecided, RequestNoted, RequestEnded, NodeChanged, LaunchEnded, DriverCalled, LeaksSeen,
        LeakDeleted, BreakerChanged, ConfigurationRead, SessionChanged,
    )
}  # fmt: skip
"""All kinds of events, by name."""
