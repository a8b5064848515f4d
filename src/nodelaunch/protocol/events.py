"""What happens in a launcher, as typed facts: metrics, traces, pages and host applications are made of them.

An event says what happened; nothing is decided by it. Times are seconds since 1970, durations seconds. What does *not*
belong here: who is told (engine/events.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from msgspec import Struct
from msgspec.structs import asdict

from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.verdicts import Reason

Stage = tuple[str, float]
"""Name of a stage of a launch, and how long it took, in seconds."""


class Event(Struct, frozen=True):
    """Something that happened, ``at`` that time."""

    NAME: ClassVar[str] = ""
    at: float

    def to_json(self) -> dict[str, Any]:
        """The event with plain values: ``event`` is its name, reasons are sentences, stages are by name."""
        facts = {name: _plain(value) for name, value in asdict(self).items()}
        if "reasons" in facts:
            facts["reasons"] = [str(reason) for reason in self.reasons]  # type: ignore[attr-defined]
        if "stages" in facts:
            facts["stages"] = dict(self.stages)  # type: ignore[attr-defined]
        return {"event": self.NAME, **facts}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class RequestChanged(Event, frozen=True):
    """A node request came, changed its state, or went; whoever changed it."""

    NAME: ClassVar[str] = "request_changed"
    request_id: RequestId
    old_state: str | None
    """None: it is new."""
    state: str | None
    """None: it is gone."""
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
    """A cloud did something to a request that is worked on, which ``what`` says in words."""

    NAME: ClassVar[str] = "request_noted"
    request_id: RequestId
    provider: str
    pool: str
    what: str


class RequestEnded(Event, frozen=True):
    """This launcher's work on a request ended.

    ``outcome``: ``fulfilled``, ``declined``, ``handed_back``, ``gone`` or ``lost``. ``took_s``: since the launcher
    began; ``age_s``: since the request was made.
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
    """A node came, changed its state, or went; whoever changed it."""

    NAME: ClassVar[str] = "node_changed"
    node_id: NodeId
    provider: str | None
    pool: str | None
    labels: tuple[str, ...]
    old_state: str | None
    """None: it is new."""
    state: str | None
    """None: it is gone."""
    request_id: str | None
    """The request that has it."""


class LaunchEnded(Event, frozen=True):
    """One attempt to launch a node ended.

    ``result``: ``ready``; ``failed``; ``aborted`` where the cloud had no room; ``cancelled`` where nobody wants
    the node any more. ``stages`` are in order: ``queue`` from the request until the attempt, ``quota`` the wait for
    room, ``create`` the call, ``active`` until the instance runs, ``keys`` until its host keys were read.
    """

    NAME: ClassVar[str] = "launch_ended"
    request_id: RequestId
    node_id: NodeId | None
    """None: there was no record yet."""
    provider: str
    pool: str
    label: str
    zone: str | None
    requestor: str | None
    attempt: int
    result: str
    error: str | None
    """Class of the error."""
    detail: str | None
    took_s: float
    so_far_s: float
    """Since the first attempt to launch this node began."""
    stages: tuple[Stage, ...]


class DriverCalled(Event, frozen=True):
    """A driver was asked for something. ``call``: ``create``, ``wait``, ``delete``, ``refresh`` or ``list``."""

    NAME: ClassVar[str] = "driver_called"
    provider: str
    call: str
    error: str | None
    """Class of the error; None: it was done."""
    took_s: float


class LeaksSeen(Event, frozen=True):
    """A provider was searched for what belongs to no node: how many of each kind there were."""

    NAME: ClassVar[str] = "leaks_seen"
    provider: str
    kinds: tuple[tuple[str, int], ...]


class LeakDeleted(Event, frozen=True):
    """Something that belonged to no node was deleted."""

    NAME: ClassVar[str] = "leak_deleted"
    provider: str
    kind: str
    external_id: str


class BreakerChanged(Event, frozen=True):
    """Something is not tried any more because it failed again and again, or is tried again."""

    NAME: ClassVar[str] = "breaker_changed"
    provider: str
    what: str
    is_open: bool
    detail: str | None


class ConfigurationRead(Event, frozen=True):
    """The configuration was read again. ``is_in_force``: whether it had no errors."""

    NAME: ClassVar[str] = "configuration_read"
    is_in_force: bool
    problems: tuple[str, ...]


class SessionChanged(Event, frozen=True):
    """The session with the store is in another state: ``connected``, ``suspended``, ``doubtful`` or ``lost``."""

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
