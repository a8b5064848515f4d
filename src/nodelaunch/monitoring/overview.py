"""Overview of a launcher, for its status page and for host applications.

    overview = Overview(launcher)
    facts = overview.take().to_json()

web/ has the page, metrics.py the figures for Prometheus.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean, median, quantiles
from typing import Any, Final

from nodelaunch import __version__
from nodelaunch.config.standing import remarks
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.asking import zuul_facts
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.engine.view import ClusterView, Versioned
from nodelaunch.launcher import Launcher
from nodelaunch.protocol.events import ConfigurationRead, LaunchEnded, LeaksSeen
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import INSTANCES, Limits, Usage
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import REQUEST_FINAL

WAITING_SHOWN: Final = 50
"""Number of waiting requests that are listed individually."""
POOLS_ASKED: Final = 3
"""Number of pools whose reason is given for each waiting request."""
LAUNCHES_KEPT: Final = 200
"""Number of last launches of each label that its times come from."""
LABELS_KEPT: Final = 500


@dataclass(frozen=True, slots=True)
class Meter:
    """Use of a resource. ``limit`` None: no limit."""

    resource: str
    used: float
    limit: float | None

    def to_json(self) -> dict[str, Any]:
        return {"resource": self.resource, "used": self.used, "limit": self.limit}


@dataclass(frozen=True, slots=True)
class LaunchTimes:
    """Durations of the last launches of a label, from the request to the ready node."""

    label: str
    count: int
    mean_s: float
    median_s: float
    p95_s: float
    stages: Mapping[str, float]
    """Mean duration of each stage in seconds, in order."""


@dataclass(slots=True)
class _Launches:
    """The last launches of one label."""

    total_s: deque[float] = field(default_factory=lambda: deque(maxlen=LAUNCHES_KEPT))
    stages: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=LAUNCHES_KEPT))

    def times(self, label: str) -> LaunchTimes:
        names = dict.fromkeys(name for each in self.stages for name in each)
        p95_s = quantiles(self.total_s, n=20, method="inclusive")[-1] if len(self.total_s) > 1 else self.total_s[0]
        return LaunchTimes(
            label=label,
            count=len(self.total_s),
            mean_s=fmean(self.total_s),
            median_s=median(self.total_s),
            p95_s=p95_s,
            stages={name: fmean(each.get(name, 0.0) for each in self.stages) for name in names},
        )


class Overview:
    """Follows *launcher* until `close`. Create one object and keep it, because it collects the times of launches."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._launches: dict[str, _Launches] = {}
        self._leaks: dict[str, tuple[tuple[str, int], ...]] = {}
        self._config_read_at = launcher.events.now()
        events = launcher.events
        self._stops = [
            events.subscribe(self._launch_ended, LaunchEnded),
            events.subscribe(self._leaks_seen, LeaksSeen),
            events.subscribe(self._config_read, ConfigurationRead),
        ]

    def close(self) -> None:
        """Stop following the launcher."""
        while self._stops:
            self._stops.pop()()

    def _launch_ended(self, event: LaunchEnded) -> None:
        if event.result != "ready":
            return
        launches = self._launches.get(event.label)
        if launches is None:
            if len(self._launches) >= LABELS_KEPT:
                return
            launches = self._launches[event.label] = _Launches()
        stages = dict(event.stages)
        launches.total_s.append(sum(stages.values()))
        launches.stages.append(stages)

    def _leaks_seen(self, event: LeaksSeen) -> None:
        self._leaks[event.provider] = event.kinds

    def _config_read(self, event: ConfigurationRead) -> None:
        if event.is_in_force:
            self._config_read_at = event.at

    # -- taking it --------------------------------------------------------------------------------------------------

    def take(self) -> Glance:
        """Return the present state. The number of nodes does not matter here: `Glance.to_json` counts them."""
        launcher = self._launcher
        now = launcher.events.now()
        glance = Glance(
            at=now,
            hostname=launcher.hostname,
            config_read_at=self._config_read_at,
            notices=[("error", reason) for reason in launcher.readiness()],
            launches={label: launches.times(label) for label, launches in self._launches.items()},
        )
        standing = launcher.config_standing
        glance.notices += [("error", remark) for remark in remarks((), standing.problems, standing.refused_at)]
        glance.notices += [("warning", remark) for remark in remarks(standing.restart_needed, (), None)]
        if launcher.is_open:
            view = launcher.view
            paused = dict.fromkeys(str(pause) for pauses in launcher.pauses.values() for pause in pauses)
            glance.notices += [("warning", pause) for pause in paused]
            glance.notices += list(self._warnings())
            glance.providers = [_provider(launcher, runtime) for runtime in launcher.providers.values()]
            glance.nodes, glance.requests = list(view.nodes.values()), list(view.requests.values())
            glance.launching = sum(runtime.running_launches for runtime in launcher.providers.values())
            waiting = [seen for seen in glance.requests if seen.record.state not in REQUEST_FINAL]
            waiting.sort(key=lambda seen: seen.record.id)
            glance.waiting_count = len(waiting)
            glance.waiting = [_waiting(launcher, seen, now) for seen in waiting[:WAITING_SHOWN]]
            glance.launchers = _launchers(view, launcher.id)
        return glance

    def _warnings(self) -> Iterator[tuple[str, str]]:
        for name, runtime in self._launcher.providers.items():
            if runtime.down is not None:
                yield "warning", f"provider {name} does not answer: {runtime.down}"
            breakers = runtime.breakers
            open_breakers = [*breakers.launches.list_open(), *breakers.zones.list_open(), *breakers.labels.list_open()]
            yield from (("warning", f"{name}: {breaker}") for breaker in open_breakers)
            for kind, count in self._leaks.get(name, ()):
                yield "warning", f"{name}: {count} of kind {kind} belong to no node, and will be deleted soon"


def _provider(launcher: Launcher, runtime: ProviderRuntime) -> dict[str, Any]:
    view, name, cloud = launcher.view, runtime.name, runtime.cloud
    used = view.used(name) + cloud.unmanaged
    pools = [pool for key, pool in launcher.pools.items() if key[0] == name]
    return {
        "name": name,
        "state": "answers" if runtime.down is None else "away",
        "reason": runtime.down,
        "limits": [meter.to_json() for meter in _meters(cloud.limits, used)],
        "pools": [
            {
                "name": pool.ctx.pool.name,
                "state": next((pause.word for pause in launcher.pauses.get(pool.key, ())), "active"),
                "nodes": view.used(*pool.key)[INSTANCES],
                "limits": [meter.to_json() for meter in _meters(pool.ctx.pool.limits(), view.used(*pool.key))],
            }
            for pool in pools
        ],
    }


def _meters(limits: Limits, used: Usage) -> list[Meter]:
    """Return a meter for each resource with a limit."""
    amounts = sorted(limits.amounts.items())
    return [Meter(resource, used[resource], limit) for resource, limit in amounts if isfinite(limit)]


def _waiting(launcher: Launcher, seen: Versioned[NodeRequest], now: float) -> dict[str, Any]:
    request = seen.record
    zuul = zuul_facts(request.requestor_data)
    return {
        "id": request.id,
        "state": request.state.value,
        "age_s": max(0.0, now - seen.created_at),
        "labels": list(request.node_types),
        "requestor": request.requestor,
        "job": zuul["job"],
        "pipeline": zuul["pipeline"],
        "reason": _why(launcher, request.id, request.node_types),
    }


def _why(launcher: Launcher, request_id: RequestId, labels: Sequence[str]) -> str:
    """Return the reason why a request waits, as far as this launcher knows."""
    found: list[str] = []
    for key, view in launcher.scheduler.own.views.items():
        if all(label in view.labels for label in labels):
            found.append(f"{key[0]}/{key[1]}: {_why_in(launcher, request_id, key)}")
            if len(found) == POOLS_ASKED:
                break
    return "; ".join(found) or "no pool of this launcher offers all its labels"


def _why_in(launcher: Launcher, request_id: RequestId, key: PoolKey) -> str:
    pool = launcher.pools.get(key)
    if pool is None:
        return "the pool has ended"
    handler = pool.handlers.get(request_id)
    if handler is not None and handler.state is not None:
        slots = Counter(slot.state.value for slot in handler.state.slots)
        return ", ".join(f"{count} {state}" for state, count in slots.items()) or "being worked on"
    seen = launcher.view.requests.get(request_id)
    if seen is not None and pool.ctx.pool_id in seen.record.declined_by:
        return "declined"
    verdict = launcher.scheduler.explainer.verdict(request_id, key)
    reasons = [str(reason) for reason in getattr(verdict, "reasons", ())]
    return ", ".join(reasons) or "not decided yet"


def _launchers(view: ClusterView, own_id: str) -> list[dict[str, Any]]:
    counts = Counter(registered.record.hostname for registered in view.pools.values())
    found = [
        {
            "id": seen.record.id,
            "hostname": seen.record.hostname,
            "version": seen.record.version,
            "state": seen.record.state.value,
            "pools": len(seen.record.pools),
            "is_here": seen.record.id == own_id,
        }
        for seen in view.presences.values()
    ]
    ours = {each["hostname"] for each in found}
    others = [
        {"id": "", "hostname": host, "version": None, "state": "registered", "pools": count, "is_here": False}
        for host, count in counts.items()
        if host not in ours
    ]
    return sorted(found + others, key=lambda each: (str(each["hostname"]), str(each["id"])))


@dataclass(slots=True)
class Glance:
    """A launcher at one moment."""

    at: float
    hostname: str
    config_read_at: float
    notices: list[tuple[str, str]]
    """Level (``error`` or ``warning``) and text of each notice."""
    launches: Mapping[str, LaunchTimes]
    providers: list[dict[str, Any]] = field(default_factory=list)
    nodes: Sequence[Versioned[Node]] = ()
    requests: Sequence[Versioned[NodeRequest]] = ()
    launching: int = 0
    waiting_count: int = 0
    waiting: list[dict[str, Any]] = field(default_factory=list)
    launchers: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values. May be called in another thread."""
        states = Counter(seen.record.state.value for seen in self.nodes)
        return {
            "at": self.at,
            "launcher": {
                "hostname": self.hostname, "version": __version__, "config_read_at": self.config_read_at,
            },
            "notices": [{"level": level, "text": text} for level, text in self.notices],
            "totals": {
                "nodes": len(self.nodes), "requests": len(self.requests), "waiting": self.waiting_count,
                "launching": self.launching,
            },
            "nodes": dict(states),
            "providers": self.providers,
            "waiting": self.waiting,
            "labels": [
                {
                    "label": each.label, "count": each.count, "mean_s": each.mean_s, "median_s": each.median_s,
                    "p95_s": each.p95_s,
                    "stages": [{"name": name, "mean_s": mean_s} for name, mean_s in each.stages.items()],
                }
                for each in sorted(self.launches.values(), key=lambda each: each.label)
            ],
            "launchers": self.launchers,
        }  # fmt: skip
