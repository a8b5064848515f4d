"""What became of requests in one pool: kept for a while after they ended, so that an operator can ask why.

Nothing is decided by it. What does *not* belong here: how the question comes and the answer goes (questions.py), and
the reasons themselves (protocol/verdicts.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nodelaunch.clock import Clock
from nodelaunch.engine.holding import PoolContext
from nodelaunch.protocol import machine as m
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.verdicts import Accept, Decline, Defer, ProviderDown, Reason, Verdict

REMEMBERED = 1000
"""Requests a pool remembers; the one that was longest without news is forgotten first."""
EVENTS_KEPT = 20
"""Events a request's history has at most; the first ones go."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a request. ``at``: wall clock, seconds."""

    at: float
    what: str
    reasons: tuple[Reason, ...] = ()


@dataclass(slots=True)
class _Fate:
    events: list[Event] = field(default_factory=list)
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request stands with one pool, in words and typed reasons. ``to_json`` is what travels and is printed."""

    pool_id: str
    provider: str
    pool: str
    status: str
    reasons: tuple[Reason, ...] = ()
    nodes: tuple[str, ...] = ()
    """A line for each node being obtained."""
    history: tuple[Event, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "pool_id": self.pool_id,
            "provider": self.provider,
            "pool": self.pool,
            "status": self.status,
            "reasons": _as_json(self.reasons),
            "nodes": list(self.nodes),
            "history": [{"at": e.at, "what": e.what, "reasons": _as_json(e.reasons)} for e in self.history],
        }


def _as_json(reasons: Iterable[Reason]) -> list[dict[str, Any]]:
    return [
        {"kind": type(reason).__name__, "text": str(reason), "remedy": reason.remedy, "facts": asdict(reason)}
        for reason in reasons
    ]


class Fates:
    """A pool's memory of requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fates: OrderedDict[RequestId, _Fate] = OrderedDict()

    def decided(self, request_id: RequestId, verdict: Verdict) -> None:
        """Take note of *verdict*; the same kinds of reasons again are no news."""
        fate = self._fate(request_id)
        if fate.verdict == verdict:
            return
        if fate.verdict is None or _gist(fate.verdict) != _gist(verdict):
            self._add(fate, _named(verdict), getattr(verdict, "reasons", ()))
        fate.verdict = verdict

    def happened(self, request_id: RequestId, what: str) -> None:
        """Take note of *what* its cloud did to a request that was worked on here; the same again is no news."""
        fate = self._fates.get(request_id)
        if fate is not None and (not fate.events or fate.events[-1].what != what):
            self._add(fate, what)

    def ended(self, request_id: RequestId, outcome: m.Outcome, state: m.State | None) -> None:
        """Take note of how working on the request ended. What was declined without work was noted as decided."""
        if outcome is m.Outcome.REFUSED or (state is not None and isinstance(state.plan, Decline)):
            return
        self._add(self._fate(request_id), _OUTCOMES[outcome], state.reasons if state else ())

    def removed(self, request_id: RequestId) -> None:
        """The requestor deleted it."""
        if request_id in self._fates:
            self._add(self._fates[request_id], "deleted by its requestor")

    def standing(
        self,
        ctx: PoolContext,
        request_id: RequestId,
        verdict: Verdict | None,
        state: m.State | None,
        waits: Mapping[int, str],
    ) -> Standing:
        """How the request stands, given the last *verdict* on it and the *state* of its handling, if there are any, and
        why launches of it stand still, by slot."""
        fate = self._fates.get(request_id, _Fate())
        status, reasons = _status(verdict, state, fate)
        return Standing(
            pool_id=ctx.pool_id,
            provider=ctx.provider.name,
            pool=ctx.pool.name,
            status=status,
            reasons=tuple(reasons),
            nodes=tuple(_nodes(state, waits)) if state else (),
            history=tuple(fate.events),
        )

    def _fate(self, request_id: RequestId) -> _Fate:
        fate = self._fates.setdefault(request_id, _Fate())
        self._fates.move_to_end(request_id)
        if len(self._fates) > REMEMBERED:
            self._fates.popitem(last=False)
        return fate

    def _add(self, fate: _Fate, what: str, reasons: Iterable[Reason] = ()) -> None:
        fate.events.append(Event(self._clock.now(), what, tuple(reasons)))
        del fate.events[:-EVENTS_KEPT]


def _gist(verdict: Verdict) -> tuple[object, ...]:
    """What makes a verdict news: not the figures in its reasons, which change all the time, but what a cloud says."""
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
    m.Outcome.FULFILLED: "fulfilled",
    m.Outcome.DECLINED: "declined",
    m.Outcome.HANDED_BACK: "handed back",
    m.Outcome.GONE: "given up: the requestor deleted it",
    m.Outcome.LOST: "lost: its lock went with the session",
}


def _status(verdict: Verdict | None, state: m.State | None, fate: _Fate) -> tuple[str, Sequence[Reason]]:
    if state is not None:
        return ("declining" if isinstance(state.plan, Decline) else "being worked on"), state.reasons
    match verdict:
        case Defer(reasons):
            return "deferred", reasons
        case Decline(reasons):
            return "declined", reasons
        case Accept():
            return "accepted", ()
        case None if fate.events:
            return fate.events[-1].what, fate.events[-1].reasons
        case None:
            return "not known", ()


def _nodes(state: m.State, waits: Mapping[int, str]) -> list[str]:
    lines = []
    for index, slot in enumerate(state.slots):
        failures = [e.detail for e in state.story if isinstance(e, m.NodeFailed) and e.slot == index]
        line = f"{state.request.node_types[index]}: {slot.state.value}"
        if slot.attempt > 1:
            line += f", attempt {slot.attempt}"
        line += f", waits for the provider: {waits[index]}" if index in waits else ""
        lines.append(line + (f", last failure: {failures[-1]}" if failures else ""))
    return lines
