"""The scenarios by name: setups with their loads, and the figures that are compared.

What does *not* belong here: the loads themselves (loads.py), and the order of runs (runner.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.launchers import Setup
from bench.loads import Backlog, Burst, Closed, Latency, Lives, Load, Shared, Start


@dataclass(frozen=True)
class Case:
    """A setup under a load."""

    name: str
    setup: Setup
    load: Load
    only: frozenset[str] = frozenset()
    """The launchers that support the case; empty: all."""
    is_from_start: bool = False
    """True if a request exists before the launcher starts, and the load starts without a pause."""


@dataclass(frozen=True)
class Ratio:
    """The ratio of *metric* of case *of* to case *over*, and its upper limit."""

    name: str
    of: str
    over: str
    metric: str
    bar: float


@dataclass(frozen=True)
class Scenario:
    about: str
    cases: Sequence[Case]
    ratios: Sequence[Ratio] = field(default_factory=tuple)


OWN = frozenset({"nodelaunch"})
CPU, OPERATIONS = "cpu_ms_per_request", "operations_per_request"
FULL = Setup(pools=5, servers=20, driver="fake", boot_s=0.1)
"""Five pools of 20 servers, the bar's backlog."""


def _latency(is_quick: bool) -> Scenario:
    return Scenario("one request at a time", [Case("idle", Setup(), Latency(30 if is_quick else 200))])


def _closed(is_quick: bool) -> Scenario:
    load = Closed(200, 600 if is_quick else 4000, 10 if is_quick else 30)
    cases = [Case(f"pools-{pools}", Setup(pools=pools), load) for pools in (1, 10, 50, 200)]
    ratios = [
        Ratio(f"operations, {pools} pools / 1", f"pools-{pools}", "pools-1", OPERATIONS, 1.0) for pools in (10, 50, 200)
    ]
    return Scenario("200 requests outstanding all the time", cases, ratios)


def _burst(is_quick: bool) -> Scenario:
    return Scenario("many requests at once", [Case("pools-5", Setup(pools=5), Burst(300 if is_quick else 1000))])


def _backlog(is_quick: bool) -> Scenario:
    counts = (500,) if is_quick else (2000, 20_000)
    cases = [Case(f"waiting-{count}", FULL, Backlog(count, timeout_s=3 * count / 100 * 1.1 + 60)) for count in counts]
    ratios = [Ratio("CPU, 20,000 waiting / 2,000", "waiting-20000", "waiting-2000", CPU, 1.0)]
    return Scenario("requests waiting for 100 slots, each held a second", cases, () if is_quick else ratios)


def _start(is_quick: bool) -> Scenario:
    sizes = (2000,) if is_quick else (10_000, 50_000)
    load = Start()
    cases = [Case("empty", Setup(pools=50), load, is_from_start=True)]
    cases += [
        Case(f"records-{size}", Setup(pools=50, foreign_nodes=size, foreign_requests=size), load, is_from_start=True)
        for size in sizes
    ]
    ratios = [
        Ratio(f"latency, {size:,} nodes and requests / none", f"records-{size}", "empty", "latency_p50_ms", 1.2)
        for size in sizes
    ]
    return Scenario("start beside so many foreign nodes and so many finished requests, 50 pools", cases, ratios)


def _scale(is_quick: bool) -> Scenario:
    """Pairs that differ in one size only."""
    count = 400 if is_quick else 2000
    many = 500 if is_quick else 2000
    load = Closed(50, count, 60)
    cases = [
        Case("pools-1", Setup(), load),
        Case("pools-50", Setup(pools=50), load),
        Case("pools-200", Setup(pools=200), load),
        Case("open-100", Setup(pools=5, servers=20), Closed(100, 2 * many, 120)),
        Case("open-many", Setup(pools=5, servers=20), Closed(many, 2 * many, 120)),
        Case("foreign-10000", Setup(foreign_nodes=10_000), load),
        Case("hosts-10", Setup(driver="static", hosts=10), Closed(5, count // 2, 60), OWN),
        Case("hosts-1000", Setup(driver="static", hosts=1000), Closed(5, count // 2, 60), OWN),
    ]
    ratios = [
        Ratio("50 pools / 1", "pools-50", "pools-1", CPU, 1.2),
        Ratio("200 pools / 1", "pools-200", "pools-1", CPU, 1.3),
        Ratio(f"{many:,} open requests / 100", "open-many", "open-100", CPU, 1.2),
        Ratio("10,000 foreign nodes / none", "foreign-10000", "pools-1", CPU, 1.1),
        Ratio("1,000 static hosts / 10", "hosts-1000", "hosts-10", CPU, 1.2),
    ]
    return Scenario("CPU per request as one size grows", cases, ratios)


def _several(is_quick: bool) -> Scenario:
    load = Shared(100, 400 if is_quick else 2000, 60)
    cases = [Case(f"launchers-{count}", Setup(launchers=count), load) for count in (1, 2, 4)]
    ratios = [
        Ratio(f"rate, {count} launchers / 1", f"launchers-{count}", "launchers-1", "requests_per_s", float("inf"))
        for count in (2, 4)
    ]
    return Scenario("several launchers on one store", cases, ratios)


def _memory(is_quick: bool) -> Scenario:
    load = Lives(1000, 300) if is_quick else Lives()
    return Scenario("what requests leave behind in memory", [Case("lives", Setup(), load)])


_MAKERS = {
    "latency": _latency, "closed": _closed, "burst": _burst, "backlog": _backlog, "start": _start, "scale": _scale,
    "several": _several, "memory": _memory,
}  # fmt: skip


def scenarios(*, is_quick: bool = False) -> Mapping[str, Scenario]:
    """Return all scenarios; *is_quick*: smaller, to check that they work."""
    return {name: make(is_quick) for name, make in _MAKERS.items()}
