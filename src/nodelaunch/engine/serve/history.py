"""The outcomes of requests, kept for a while after they ended, so that an operator can ask why.

No decision depends on it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nodelaunch.clock import Clock
from nodelaunch.decisions import machine as m
from nodelaunch.decisions.breaker import OpenBreaker
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.asking import asked
from nodelaunch.engine.events import EventHub
from nodelaunch.protocol.events import RequestDecided, RequestNoted
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, RequestId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import Accept, Decline, Defer, ProviderDown, Reason, Verdict

REMEMBERED = 2000
"""Requests that a launcher remembers; the one whose last event is oldest is forgotten first."""
TROUBLES_KEPT = 20
"""Troubles, of all requests together, that a launcher remembers."""
EVENTS_KEPT = 20
"""Events in a request's history at most; the oldest are dropped."""

FULFILLED = "fulfilled"
TAKEN = "served: its requestor took the nodes"
WITHDRAWN = "withdrawn while it waited: its requestor deleted it, or ended"


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """An event of a request. ``at``: wall clock, seconds since 1970."""

    at: float
    what: str
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A cloud's error that affected a request, for example a failed launch."""

    at: float
    """Seconds since 1970."""
    provider: str
    pool: str
    request: str
    what: str


@dataclass(slots=True)
class _Record:
    """The events of one request in one pool."""

    events: list[HistoryEvent] = field(default_factory=list)
    verdict: Verdict | None = None


@dataclass(slots=True)
class _Remembered:
    """The history of one request."""

    pools: dict[PoolKey, _Record] = field(default_factory=dict)
    gone: NodeRequest | dict[str, Any] | None = None
    """The last version of a deleted request, or its summary by `asked` if that version is long."""


@dataclass(frozen=True, slots=True)
class RequestStanding:
    """A request's standing with one pool, in words and typed reasons. ``to_json`` is sent and printed."""

    pool_id: str
    provider: str
    pool: str
    status: str
    reasons: tuple[Reason, ...] = ()
    nodes: tuple[str, ...] = ()
    """A line for each node being obtained."""
    history: tuple[HistoryEvent, ...] = ()
    breakers: tuple[OpenBreaker, ...] = ()
    """Open breakers that concern the request."""
    asked: dict[str, Any] | None = None
    """Requestor and labels of a deleted request, as `asking.asked` returns them."""

    def to_json(self) -> dict[str, Any]:
        return {
            "pool_id": self.pool_id,
            "provider": self.provider,
            "pool": self.pool,
            "status": self.status,
            "reasons": _as_json(self.reasons),
            "nodes": list(self.nodes),
            "breakers": [{"text": str(breaker), **asdict(breaker)} for breaker in self.breakers],
            "history": [{"at": e.at, "what": e.what, "reasons": _as_json(e.reasons)} for e in self.history],
            "asked": self.asked,
        }


def _as_json(reasons: Iterable[Reason]) -> list[dict[str, Any]]:
    return [
        {"kind": type(reason).__name__, "text": str(reason), "remedy": reason.remedy, "facts": asdict(reason)}
        for reason in reasons
    ]


class History:
    """A launcher's memory of requests, by request and pool."""

    def __init__(self, clock: Clock, events: EventHub) -> None:
        self._clock = clock
        self._events = events
        self._requests: OrderedDict[RequestId, _Remembered] = OrderedDict()
        self.troubles: deque[Trouble] = deque(maxlen=TROUBLES_KEPT)
        """The latest troubles of all requests, the newest last."""

    def decided(self, request_id: RequestId, key: PoolKey, verdict: Verdict) -> None:
        """Note the *verdict* of pool *key*, unless its kinds of reasons are the same as before."""
        record = self._record(request_id, key)
        if record.verdict == verdict:
            return
        if record.verdict is None or _gist(record.verdict) != _gist(verdict):
            self._add(record, _named(verdict), getattr(verdict, "reasons", ()))
            self._report(request_id, key, verdict)
        record.verdict = verdict

    def _report(self, request_id: RequestId, key: PoolKey, verdict: Verdict) -> None:
        reasons = getattr(verdict, "reasons", ())
        self._events.emit(RequestDecided(self._clock.now(), request_id, *key, _named(verdict), tuple(reasons)))

    def noted(self, event: RequestNoted) -> None:
        """Note an event of a cloud that affects a request in work, unless it equals the last one."""
        key = (event.provider, event.pool)
        record = self._known(event.request_id).pools.get(key)
        if record is not None and (not record.events or record.events[-1].what != event.what):
            self._add(record, event.what)
            self.troubles.append(Trouble(self._clock.now(), *key, event.request_id, event.what))

    def ended(self, request_id: RequestId, key: PoolKey, outcome: m.Outcome, state: m.State | None) -> None:
        """Note the outcome of the work on the request. A decline without work was noted as decided."""
        if outcome is m.Outcome.LOCK_REFUSED or (state is not None and isinstance(state.plan, Decline)):
            return
        self._add(self._record(request_id, key), _OUTCOMES[outcome], state.reasons if state else ())

    def removed(self, request: NodeRequest, *, is_taken: bool) -> None:
        """Note that *request* was deleted, as it was last seen. *is_taken*: the requestor has its nodes, if it had
        any."""
        remembered = self._requests.get(request.id)
        if remembered is None:
            return
        remembered.gone = request if request.is_short else asked(request)
        servers = [key for key, record in remembered.pools.items() if any(e.what == FULFILLED for e in record.events)]
        for key, record in remembered.pools.items():
            if not servers and request.state is not RequestState.FULFILLED:
                is_failed = request.state is RequestState.FAILED
                self._add(record, "deleted by its requestor after it failed" if is_failed else WITHDRAWN)
            elif request.requestor == MIN_READY_REQUESTOR:
                self._add(record, "served: the nodes are kept ready")
            elif not is_taken:
                self._add(record, "deleted by its requestor, which did not take the nodes")
            else:
                self._add(record, TAKEN if key in servers else "served by another pool")

    def asked(self, request_id: RequestId) -> dict[str, Any] | None:
        """Return requestor and labels of a deleted request; None: it was not deleted, or is forgotten."""
        gone = self._known(request_id).gone
        return asked(gone) if isinstance(gone, NodeRequest) else gone

    def events(self, request_id: RequestId, key: PoolKey) -> Sequence[HistoryEvent]:
        """Return the remembered events of the request in pool *key*."""
        return tuple(self._known(request_id).pools.get(key, _Record()).events)

    def _known(self, request_id: RequestId) -> _Remembered:
        """Return the history of the request: an empty record if there is none."""
        return self._requests.get(request_id) or _Remembered()

    def _record(self, request_id: RequestId, key: PoolKey) -> _Record:
        remembered = self._requests.get(request_id)
        if remembered is None:
            remembered = self._requests[request_id] = _Remembered()
            if len(self._requests) > REMEMBERED:
                self._requests.popitem(last=False)
        else:
            self._requests.move_to_end(request_id)
        record = remembered.pools.get(key)
        if record is None:
            record = remembered.pools[key] = _Record()
        return record

    def _add(self, record: _Record, what: str, reasons: Iterable[Reason] = ()) -> None:
        record.events.append(HistoryEvent(self._clock.now(), what, tuple(reasons)))
        del record.events[:-EVENTS_KEPT]


def status_of(
    verdict: Verdict | None, state: m.State | None, events: Sequence[HistoryEvent]
) -> tuple[str, Sequence[Reason]]:
    """Return a request's standing with a pool, in words and reasons: by the *state* of its handling there, the last
    *verdict* on it, or else the last of *events*."""
    if state is not None and isinstance(state.plan, Decline):
        return "declining", state.reasons or state.plan.reasons
    if state is not None:
        return "being worked on", state.reasons
    match verdict:
        case Defer(reasons):
            return "deferred", reasons
        case Decline(reasons):
            return "declined", reasons
        case Accept():
            return "accepted", ()
    return (events[-1].what, events[-1].reasons) if events else ("not known", ())


def nodes_of(state: m.State, waits: Mapping[int, str]) -> list[str]:
    """Return one line for each node of a request in work. *waits*: reasons why launches wait, by slot."""
    lines = []
    for index, slot in enumerate(state.slots):
        failures = [e.detail for e in state.story if isinstance(e, m.NodeFailed) and e.slot == index]
        line = f"{state.request.node_types[index]}: {slot.state.value}"
        if slot.attempt > 1:
            line += f", attempt {slot.attempt}"
        line += f", waits for the provider: {waits[index]}" if index in waits else ""
        lines.append(line + (f", last failure: {failures[-1]}" if failures else ""))
    return lines


def _gist(verdict: Verdict) -> tuple[object, ...]:
    """Return the part of a verdict that makes it worth an entry: the messages of clouds, but not the changing figures
    in its reasons."""
    reasons = getattr(verdict, "reasons", ())
    return (type(verdict), *(reason if isinstance(reason, ProviderDown) else type(reason) for reason in reasons))


def _named(verdict: Verdict) -> str:
    match verdict:
        case Accept():
            return "accepted"
        case Decline():
            return "declined"
        case Defer():
            return "deferred"


_OUTCOMES = {
    m.Outcome.FULFILLED: FULFILLED,
    m.Outcome.DECLINED: "declined",
    m.Outcome.HANDED_BACK: "handed back",
    m.Outcome.GONE: "given up: the requestor deleted it",
    m.Outcome.LOST: "lost: its lock went with the session",
}
