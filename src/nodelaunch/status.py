"""The state of the whole cluster as one object, for the command line, HTTP and embedders.

`collect` combines the records and the launchers' reports. A launcher process has its own report
(`Launcher.reporter`); `ask_status` asks all launchers for their reports. cli/ and web/ format the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any

import msgspec

from nodelaunch.decisions.breaker import OpenBreaker
from nodelaunch.engine.reporting.explainrpc import ask_reports
from nodelaunch.engine.reporting.report import MOST_WAITING, ConfigInForce, LauncherReport, PoolReport
from nodelaunch.engine.serve.history import Trouble
from nodelaunch.engine.supply.minready import ReadyShortfall
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.pauses import Pause
from nodelaunch.protocol.records import Component, NodeRequest
from nodelaunch.protocol.registrations import process_names
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.store import Store

TROUBLES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PauseStatus:
    """A pause of a provider, pool or launcher by an operator."""

    kind: str
    """``provider``, ``pool`` or ``launcher``."""
    name: str
    state: str
    """``paused`` or ``draining``."""
    by: str | None
    at: float
    reason: str | None
    text: str
    """The pause as a readable sentence."""

    @classmethod
    def of(cls, pause: Pause) -> PauseStatus:
        target = pause.target
        return cls(target.kind.value, target.name, pause.word, pause.by, pause.at, pause.reason, str(pause))


@dataclass(frozen=True, slots=True)
class LauncherStatus:
    """A process that serves pools: a nodelaunch launcher, or another program."""

    id: str
    """The id of the process; empty for other programs."""
    hostname: str
    version: str | None
    state: str
    """``running``; ``stopped`` while it ends; ``paused`` or ``draining`` after an operator's command."""
    since: float | None
    """The time of its start, seconds since 1970; None: not reported."""
    pools: tuple[str, ...] = ()
    """``PROVIDER/POOL`` of each pool that it has registered."""
    answers: bool = False
    """True if the process's own report is included."""
    config: ConfigInForce | None = None
    pauses: tuple[PauseStatus, ...] = ()
    pid: int | None = None
    """The process id on the process's host; None: not reported."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool, with all launchers that serve it."""

    provider: str
    pool: str
    labels: tuple[str, ...] = ()
    launchers: tuple[str, ...] = ()
    """Host names of the launchers that have registered the pool; with the beginning of the id if a name is not unique.
    """
    state: str = "running"
    """``paused`` or ``draining`` after an operator's command; ``off`` if ``max-concurrency`` is 0; ``away`` if no
    launcher has registered the pool; ``down`` if a launcher's provider does not answer; ``full`` if requests wait for
    capacity."""
    nodes: Mapping[str, int] = field(default_factory=dict)
    """Number of nodes in each state."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Limit of each limited resource, as a launcher reports it."""
    used: Mapping[str, float] = field(default_factory=dict)
    """Amount of each resource that the pool's nodes use."""
    free: Mapping[str, float] = field(default_factory=dict)
    """Free amount of each limited resource for the next request."""
    working: int = 0
    """Number of requests that launchers work on in the pool."""
    down: str | None = None
    """The reason why the pool's provider is unavailable; None: it answers."""
    breakers: tuple[OpenBreaker, ...] = ()
    pauses: tuple[PauseStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """A waiting request."""

    id: str
    labels: tuple[str, ...]
    since: float
    """The start of the wait, seconds since 1970."""
    requestor: str | None
    why: tuple[str, ...] = ()
    """The reasons that launchers report, as ``PROVIDER/POOL: reason``."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the cluster at the time ``at``."""

    at: float
    """Seconds since 1970."""
    launchers: tuple[LauncherStatus, ...] = ()
    pools: tuple[PoolStatus, ...] = ()
    pauses: tuple[PauseStatus, ...] = ()
    """All pauses, including those of targets that no launcher runs at the moment."""
    requests: Mapping[str, int] = field(default_factory=dict)
    """Number of requests in each state."""
    waiting: tuple[RequestStatus, ...] = ()
    """The first waiting requests, in the order of service; `MOST_WAITING` at most."""
    troubles: tuple[Trouble, ...] = ()
    """The last failures that launchers report, latest first."""
    min_ready: tuple[ReadyShortfall, ...] = ()
    """Labels with fewer ready nodes than their min-ready, as launchers report them, by name."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values: objects, lists, texts and numbers."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


async def ask_status(store: Store, view: ClusterView, now: float) -> Status:
    """Return the state of the cluster in *store*, from its *view* and the reports of all launchers.

    A launcher that does not answer within some seconds is left out. Raises: StoreError.
    """
    processes = [seen.record.id for seen in view.presences.values()]
    reports = await ask_reports(store, processes) if processes else []
    return collect(view, reports, now)


def collect(view: ClusterView, reports: Iterable[LauncherReport], now: float) -> Status:
    """Return the state of the cluster at *now*, from the records in *view* and the launchers' *reports*."""
    reports_by_id = {report.id: report for report in reports}
    why: dict[str, dict[str, None]] = {}
    for report in reports_by_id.values():
        for request in report.waiting:
            why.setdefault(request.id, {}).update(dict.fromkeys(request.why))
    shortfalls = {each.label: each for report in reports_by_id.values() for each in report.min_ready}
    troubles = sorted(
        (t for report in reports_by_id.values() for t in report.troubles), key=lambda trouble: -trouble.at
    )
    return Status(
        at=now,
        launchers=tuple(sorted(_launchers(view, reports_by_id), key=lambda launcher: (launcher.hostname, launcher.id))),
        pools=tuple(_pools(view, reports_by_id)),
        pauses=tuple(PauseStatus.of(seen.record) for _, seen in sorted(view.pauses.items(), key=_by_name)),
        requests=dict(Counter(seen.record.state.value for seen in view.requests.values())),
        waiting=tuple(_waiting(view, why)),
        troubles=tuple(troubles[:TROUBLES_SHOWN]),
        min_ready=tuple(sorted(shortfalls.values(), key=lambda each: each.label)),
    )


def _by_name(item: tuple[Any, object]) -> tuple[str, str]:
    return (item[0].kind.value, item[0].name)


# -- launchers ------------------------------------------------------------------------------------------------------


def _launchers(view: ClusterView, reports_by_id: Mapping[str, LauncherReport]) -> Iterable[LauncherStatus]:
    pools: dict[str, list[str]] = {}
    for peer in view.peers:
        pools.setdefault(peer.launcher, []).append(f"{peer.provider}/{peer.pool}")
    for seen in view.presences.values():
        record, report = seen.record, reports_by_id.get(seen.record.id)
        pauses = view.pauses_of_launcher(record.hostname, record.id)
        yield LauncherStatus(
            id=record.id,
            hostname=record.hostname,
            version=record.version,
            state=_word(pauses) or record.state.value,
            since=report.started_at if report is not None else seen.created_at,
            pools=tuple(sorted(pools.get(record.id, ()))),
            answers=report is not None,
            config=report.config if report is not None else None,
            pauses=tuple(map(PauseStatus.of, pauses)),
            pid=report.pid if report is not None else None,
        )
    others: dict[str, tuple[Component, list[str]]] = {}
    for peer, pool in zip(view.peers, view.pools.values(), strict=True):
        if not peer.launcher:
            known = others.setdefault(pool.record.hostname, (pool.record, []))
            known[1].append(f"{peer.provider}/{peer.pool}")
    for hostname, (component, names) in others.items():
        yield LauncherStatus("", hostname, component.version, component.state.value, None, tuple(sorted(names)))


def _word(pauses: Iterable[Pause]) -> str:
    """Return ``draining``, ``paused`` or an empty text."""
    words = {pause.word for pause in pauses}
    return "draining" if "draining" in words else next(iter(words), "")


# -- pools ----------------------------------------------------------------------------------------------------------


def _pools(view: ClusterView, reports_by_id: Mapping[str, LauncherReport]) -> Iterable[PoolStatus]:
    registered: dict[tuple[str, str], list[int]] = {}
    peers, records = view.peers, [seen.record for seen in view.pools.values()]
    for number, peer in enumerate(peers):
        registered.setdefault((peer.provider, peer.pool), []).append(number)
    names = process_names(seen.record for seen in view.presences.values())
    reports: dict[tuple[str, str], list[PoolReport]] = {}
    for report in reports_by_id.values():
        for pool in report.pools:
            reports.setdefault((pool.provider, pool.pool), []).append(pool)
    states: dict[tuple[str, str], Counter[str]] = {}
    for node in (seen.record for seen in view.nodes.values()):
        if node.provider and node.pool:
            states.setdefault((node.provider, node.pool), Counter())[node.state.value] += 1
    for key in sorted({*registered, *reports, *states, *view.known_pools}):
        numbers, said = registered.get(key, []), reports.get(key, [])
        pauses = view.pauses_of(*key)
        first = said[0] if said else PoolReport(*key, "")
        down = next((report.down for report in said if report.down is not None), None)
        state = _word(pauses)
        if not state and numbers and all(peers[number].is_stopped for number in numbers):
            state = "draining" if view.is_draining(*key) else "paused"
        if not state and said and not any(report.takes_requests for report in said):
            state = "off"
        if not state:
            is_full = bool(numbers) and all(peers[number].is_paused for number in numbers)
            state = "away" if not numbers else "down" if down is not None else "full" if is_full else "running"
        yield PoolStatus(
            provider=key[0],
            pool=key[1],
            labels=tuple(sorted({label for number in numbers for label in peers[number].labels})),
            launchers=tuple(sorted({names.get(peers[n].launcher, records[n].hostname) for n in numbers})),
            state=state,
            nodes=dict(sorted(states.get(key, Counter()).items())),
            limits=first.limits,
            used=dict(view.used(*key).amounts),
            free=first.free,
            working=sum(report.working for report in said),
            down=down,
            breakers=tuple({breaker.what: breaker for report in said for breaker in report.breakers}.values()),
            pauses=tuple(map(PauseStatus.of, pauses)),
        )


# -- requests -------------------------------------------------------------------------------------------------------


def _waiting(view: ClusterView, why: Mapping[str, Iterable[str]]) -> Iterable[RequestStatus]:
    requests = (seen.record for seen in view.open_requests.values())
    waiting = (request for request in requests if request.state is RequestState.REQUESTED)
    return (_request(each, why) for each in nsmallest(MOST_WAITING, waiting, key=lambda request: request.order))


def _request(request: NodeRequest, why: Mapping[str, Iterable[str]]) -> RequestStatus:
    reasons = tuple(why.get(request.id, ()))
    return RequestStatus(request.id, request.node_types, request.state_time, request.requestor, reasons)


__all__ = [
    "ConfigInForce", "LauncherReport", "LauncherStatus", "PauseStatus", "PoolReport", "PoolStatus", "ReadyShortfall",
    "RequestStatus", "Status", "Trouble", "ask_status", "collect",
]  # fmt: skip
