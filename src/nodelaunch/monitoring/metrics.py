"""Figures of a launcher for Prometheus.

    metrics = Metrics(launcher)
    page = await metrics.render()

Counters follow the launcher's events. Gauges (nodes, limits, use) are computed when the page is requested. statsd.py
has Nodepool's names.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Final

import prometheus_client as prom
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nodelaunch import __version__
from nodelaunch.decisions.breaker import OpenBreaker
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.engine.view import ClusterView, Versioned
from nodelaunch.launcher import Launcher
from nodelaunch.monitoring.tallies import Histogram, Tally
from nodelaunch.protocol.events import (
    ConfigurationRead,
    DriverCalled,
    LaunchEnded,
    LeakDeleted,
    LeaksSeen,
    RequestDecided,
    RequestEnded,
    SessionChanged,
)
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.store import SessionState

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LONG_S: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1800, 3600)
"""Histogram buckets for launches and requests."""
CALL_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Histogram buckets for driver calls."""


class Metrics:
    """The figures of one launcher in their own registry. They count from the creation of this object until `close`."""

    def __init__(self, launcher: Launcher) -> None:
        self.registry: prom.CollectorRegistry = prom.CollectorRegistry()
        self._launcher = launcher
        self._collector = _Standing()
        self.registry.register(self._collector)
        prom.ProcessCollector(registry=self.registry)
        self._counts = _Counts(self.registry)
        counts, events = self._counts, launcher.events
        self._stops = [
            events.subscribe(counts.request_ended, RequestEnded),
            events.subscribe(counts.decided, RequestDecided),
            events.subscribe(counts.launch_ended, LaunchEnded),
            events.subscribe(counts.called, DriverCalled),
            events.subscribe(counts.leaks_seen, LeaksSeen),
            events.subscribe(counts.leak_deleted, LeakDeleted),
            events.subscribe(counts.configured, ConfigurationRead),
            events.subscribe(counts.session_changed, SessionChanged),
        ]

    def close(self) -> None:
        """Stop counting."""
        while self._stops:
            self._stops.pop()()

    async def render(self) -> bytes:
        """Return the page in the text format of Prometheus. It is made in another thread because of large numbers of
        nodes."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(0)
        standing = _take(self._launcher, loop.time() - began)
        return await asyncio.to_thread(self._render, standing)

    def _render(self, standing: _Facts) -> bytes:
        self._collector.facts = standing
        return prom.generate_latest(self.registry)


class _Counts:
    """Counters and histograms, which follow events."""

    def __init__(self, registry: prom.CollectorRegistry) -> None:
        pool = ("provider", "pool")
        self._request_s = Histogram(
            "nodelaunch_request_seconds",
            "Time from the creation of a request to its result.",
            (*pool, "outcome"),
            LONG_S,
            total=("nodelaunch_requests", "Finished requests, by outcome."),
        )
        self._decisions = Tally(
            "nodelaunch_decisions",
            "Decisions on requests; deferred and declined ones by reason.",
            (*pool, "decision", "reason"),
        )
        self._launch_s = Histogram(
            "nodelaunch_launch_seconds", "Attempts to launch a node, by result.", (*pool, "label", "result"), LONG_S
        )
        self._stage_s = Histogram(
            "nodelaunch_launch_stage_seconds",
            "Stages of launches that succeeded: queue, quota, create, active, keys.",
            ("provider", "label", "stage"),
            LONG_S,
        )
        self._call_s = Histogram(
            "nodelaunch_driver_call_seconds",
            "Calls of drivers: create, wait, delete, refresh, list. Result ok, or the class of the error.",
            ("provider", "call", "result"),
            CALL_S,
        )
        for each in (self._request_s, self._decisions, self._launch_s, self._stage_s, self._call_s):
            registry.register(each)
        self._failures = prom.Counter(
            "nodelaunch_launch_failures",
            "Attempts to launch a node that did not succeed, by class of the error.",
            (*pool, "error"),
            registry=registry,
        )
        self._leaks = prom.Gauge(
            "nodelaunch_leaks",
            "Leaked resources that the last search found.",
            ("provider", "kind"),
            registry=registry,
        )
        self._leaks_deleted = prom.Counter(
            "nodelaunch_leaks_deleted", "Leaked resources that were deleted.", ("provider", "kind"),
            registry=registry,
        )  # fmt: skip
        self._reloads = prom.Counter(
            "nodelaunch_config_reads",
            "Readings of the configuration after the first, by result: in_force or refused.",
            ("result",),
            registry=registry,
        )
        self._in_force = prom.Gauge(
            "nodelaunch_config_in_force", "1 if the files, as last read, are in force.", registry=registry
        )
        self._read_at = prom.Gauge(
            "nodelaunch_config_last_read_timestamp_seconds",
            "Time of the last reload of a configuration without errors.",
            registry=registry,
        )
        self._losses = prom.Counter(
            "nodelaunch_store_sessions_lost", "Lost sessions with the store.", registry=registry
        )
        self._in_force.set(1)
        for result in ("in_force", "refused"):
            self._reloads.labels(result)
        self._kinds: dict[str, set[str]] = {}
        """Kinds of leaks seen so far, by provider."""

    def request_ended(self, event: RequestEnded) -> None:
        self._request_s.see((event.provider, event.pool, event.outcome), event.age_s)

    def decided(self, event: RequestDecided) -> None:
        for reason in {type(reason).__name__ for reason in event.reasons} or {""}:
            self._decisions.count((event.provider, event.pool, event.decision, reason))

    def launch_ended(self, event: LaunchEnded) -> None:
        self._launch_s.see((event.provider, event.pool, event.label, event.result), event.took_s)
        if event.result == "ready":
            for stage, took_s in event.stages:
                self._stage_s.see((event.provider, event.label, stage), took_s)
        elif event.error is not None:
            self._failures.labels(event.provider, event.pool, event.error).inc()

    def called(self, event: DriverCalled) -> None:
        self._call_s.see((event.provider, event.call, event.error or "ok"), event.took_s)

    def leaks_seen(self, event: LeaksSeen) -> None:
        found, known = dict(event.kinds), self._kinds.setdefault(event.provider, set())
        known.update(found)
        for kind in known:
            self._leaks.labels(event.provider, kind).set(found.get(kind, 0))

    def leak_deleted(self, event: LeakDeleted) -> None:
        self._leaks_deleted.labels(event.provider, event.kind).inc()

    def configured(self, event: ConfigurationRead) -> None:
        self._reloads.labels("in_force" if event.is_in_force else "refused").inc()
        self._in_force.set(event.is_in_force)
        if event.is_in_force:
            self._read_at.set(event.at)

    def session_changed(self, event: SessionChanged) -> None:
        if event.state == SessionState.LOST.value:
            self._losses.inc()


# -- gauges ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Amounts:
    """Limits and use. ``labels``: values of the metric's labels that say whose they are."""

    labels: tuple[str, ...]
    limits: Mapping[str, float]
    used: Mapping[str, float]
    unmanaged: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Facts:
    """The facts of one moment. They are cheap to take, and another thread can process them."""

    at: float
    turn_s: float
    is_connected: bool
    is_synced: bool
    is_ready: bool
    operations: Mapping[str, int]
    needs_restart: bool = False
    nodes: Sequence[Versioned[Node]] = ()
    requests: Sequence[Versioned[NodeRequest]] = ()
    launchers: int = 0
    providers_up: Mapping[str, bool] = field(default_factory=dict)
    running: Mapping[str, int] = field(default_factory=dict)
    provider_amounts: tuple[_Amounts, ...] = ()
    pool_amounts: tuple[_Amounts, ...] = ()
    tenant_amounts: tuple[_Amounts, ...] = ()
    breakers: tuple[tuple[str, OpenBreaker], ...] = ()
    registered: Mapping[tuple[str, str], bool] = field(default_factory=dict)
    paused: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """``paused`` or ``draining``, for pools that an operator paused or drains."""


def _take(launcher: Launcher, turn_s: float) -> _Facts:
    session = launcher.store.session
    facts = _Facts(
        at=launcher.events.now(),
        turn_s=turn_s,
        is_connected=session.state is SessionState.CONNECTED,
        is_synced=launcher.is_open and launcher.view.is_synced,
        is_ready=not launcher.readiness(),
        operations=dict(launcher.store.operations),
        needs_restart=bool(launcher.config_standing.restart_needed),
    )
    if not launcher.is_open:
        return facts
    view, runtimes = launcher.view, launcher.providers
    return replace(
        facts,
        nodes=list(view.nodes.values()),
        requests=list(view.requests.values()),
        launchers=len(view.launchers),
        providers_up={name: runtime.down is None for name, runtime in runtimes.items()},
        running={name: runtime.running_launches for name, runtime in runtimes.items()},
        provider_amounts=tuple(_of_provider(runtime, view) for runtime in runtimes.values()),
        pool_amounts=tuple(
            _Amounts(key, pool.ctx.pool.limits().amounts, view.used(*key).amounts, {})
            for key, pool in launcher.pools.items()
        ),
        tenant_amounts=tuple(
            _Amounts((name,), limits.amounts, view.used_by_tenant(name).amounts, {})
            for name, limits in launcher.scheduler.facts.books.tenants.items()
        ),
        breakers=tuple((name, each) for name, runtime in runtimes.items() for each in _open_breakers(runtime)),
        paused={key: pauses[0].word for key, pauses in launcher.pauses.items() if pauses},
        registered={key: pool.is_registered for key, pool in launcher.pools.items()},
    )


def _of_provider(runtime: ProviderRuntime, view: ClusterView) -> _Amounts:
    cloud = runtime.cloud
    return _Amounts((runtime.name,), cloud.limits.amounts, view.used(runtime.name).amounts, cloud.unmanaged.amounts)


def _open_breakers(runtime: ProviderRuntime) -> Iterable[OpenBreaker]:
    breakers = runtime.breakers
    return [
        *breakers.questions.list_open(),
        *breakers.launches.list_open(),
        *breakers.zones.list_open(),
        *breakers.labels.list_open(),
    ]


class _Standing(Collector):
    """Makes metrics of the latest facts."""

    def __init__(self) -> None:
        self.facts: _Facts | None = None

    def collect(self) -> Iterator[Metric]:
        facts = self.facts
        if facts is None:
            return
        info = GaugeMetricFamily("nodelaunch_info", "What runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield _gauge("nodelaunch_ready", "1 if the launcher can take requests.", facts.is_ready)
        yield _gauge(
            "nodelaunch_restart_needed", "1 if changes of the configuration wait for a restart.", facts.needs_restart
        )
        yield _gauge("nodelaunch_store_connected", "1 if there is a session with the store.", facts.is_connected)
        yield _gauge("nodelaunch_view_complete", "1 if all records of the cluster are known.", facts.is_synced)
        yield _gauge(
            "nodelaunch_event_loop_turn_seconds", "Duration of the latest turn of the event loop.", facts.turn_s
        )
        operations = CounterMetricFamily(
            "nodelaunch_store_operations", "Operations of the store.", labels=["operation"]
        )
        for name, count in sorted(facts.operations.items()):
            operations.add_metric([name], count)
        yield operations
        yield _gauge("nodelaunch_launchers", "Launchers connected to the store.", facts.launchers)
        yield from _of_nodes(facts)
        yield from _of_requests(facts)
        yield from _of_providers(facts)
        yield from _of_amounts("provider", facts.provider_amounts, ["provider"])
        yield from _of_amounts("pool", facts.pool_amounts, ["provider", "pool"])
        yield from _of_amounts("tenant", facts.tenant_amounts, ["tenant"])


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _of_nodes(facts: _Facts) -> Iterator[Metric]:
    counts: Counter[tuple[str, str, str]] = Counter()
    by_label: Counter[tuple[str, str]] = Counter()
    oldest: dict[tuple[str, str], float] = {}
    for node in (seen.record for seen in facts.nodes):
        provider, state, since = node.provider or "", node.state.value, node.state_time
        counts[provider, node.pool or "", state] += 1
        by_label.update((label, state) for label in node.type)
        oldest[provider, state] = min(oldest.get((provider, state), since), since)
    nodes = GaugeMetricFamily("nodelaunch_nodes", "Nodes by state.", labels=["provider", "pool", "state"])
    for key, count in sorted(counts.items()):
        nodes.add_metric(list(key), count)
    yield nodes
    labels = GaugeMetricFamily(
        "nodelaunch_label_nodes",
        "Nodes by label; a node with several labels counts for each.",
        labels=["label", "state"],
    )
    for of_label, count in sorted(by_label.items()):
        labels.add_metric(list(of_label), count)
    yield labels
    ages = GaugeMetricFamily(
        "nodelaunch_node_oldest_seconds",
        "Time in a state of the node that has been in it longest.",
        labels=["provider", "state"],
    )
    for of_state, since in sorted(oldest.items()):
        ages.add_metric(list(of_state), max(0.0, facts.at - since))
    yield ages


def _of_requests(facts: _Facts) -> Iterator[Metric]:
    made_at: dict[str, list[float]] = {"requested": [], "pending": []}
    for seen in facts.requests:
        made_at.setdefault(seen.record.state.value, []).append(seen.created_at)
    requests = GaugeMetricFamily("nodelaunch_open_requests", "Requests by state.", labels=["state"])
    ages = GaugeMetricFamily(
        "nodelaunch_request_oldest_seconds", "Age of the oldest request in a state.", labels=["state"]
    )
    for state, times in sorted(made_at.items()):
        requests.add_metric([state], len(times))
        ages.add_metric([state], max(0.0, facts.at - min(times, default=facts.at)))
    yield requests
    yield ages


def _of_providers(facts: _Facts) -> Iterator[Metric]:
    up = GaugeMetricFamily("nodelaunch_provider_up", "1 if the provider answers.", labels=["provider"])
    for name, is_up in sorted(facts.providers_up.items()):
        up.add_metric([name], float(is_up))
    yield up
    running = GaugeMetricFamily(
        "nodelaunch_launches_running", "Launches in progress in this launcher.", labels=["provider"]
    )
    for name, count in sorted(facts.running.items()):
        running.add_metric([name], count)
    yield running
    registered = GaugeMetricFamily(
        "nodelaunch_pool_registered", "1 if the pool is registered and receives requests.",
        labels=["provider", "pool"],
    )  # fmt: skip
    for key, is_registered in sorted(facts.registered.items()):
        registered.add_metric(list(key), float(is_registered))
    yield registered
    paused = GaugeMetricFamily(
        "nodelaunch_pool_paused",
        "Pools that operators have paused or are draining.",
        labels=["provider", "pool", "state"],
    )
    for key, state in sorted(facts.paused.items()):
        paused.add_metric([*key, state], 1)
    yield paused
    breakers = GaugeMetricFamily(
        "nodelaunch_breaker_failures",
        "Consecutive failures behind an open breaker; no figure for a closed breaker.",
        labels=["provider", "what"],
    )
    for name, breaker in facts.breakers:
        breakers.add_metric([name, breaker.what], breaker.failures)
    yield breakers


def _of_amounts(what: str, amounts: Iterable[_Amounts], labels: list[str]) -> Iterator[Metric]:
    """Yield the figures of resources in Nodepool's units: instances, cores, ram in MiB. Unlimited resources have no
    limit."""
    limit = GaugeMetricFamily(f"nodelaunch_{what}_limit", f"Limit of the {what}.", labels=[*labels, "resource"])
    used = GaugeMetricFamily(f"nodelaunch_{what}_used", f"Used by nodes of the {what}.", labels=[*labels, "resource"])
    unmanaged = GaugeMetricFamily(
        f"nodelaunch_{what}_unmanaged", "Used by resources that belong to no node.", labels=[*labels, "resource"]
    )
    for each in amounts:
        for resource in sorted({*each.limits, *each.used, "instances"}):
            if isfinite(bound := each.limits.get(resource, float("inf"))):
                limit.add_metric([*each.labels, resource], bound)
            used.add_metric([*each.labels, resource], each.used.get(resource, 0))
        for resource, amount in sorted(each.unmanaged.items()):
            unmanaged.add_metric([*each.labels, resource], amount)
    yield limit
    yield used
    if what == "provider":
        yield unmanaged
