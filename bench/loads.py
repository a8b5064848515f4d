"""Loads: requests to a subject, and the resulting figures. Each load is bounded in count and time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from bench.launchers import LABEL
from bench.subject import Subject

GONE_TIMEOUT_S = 60.0
"""Time until all nodes must be gone, after the last node was returned."""


class Load(Protocol):
    """A load on a subject."""

    @property
    def hold_s(self) -> float:
        """Time that each node is in use."""
        ...

    @property
    def watches_nodes(self) -> bool:
        """True if the generator has to watch nodes."""
        ...

    async def run(self, subject: Subject) -> dict[str, Any]:
        """Return the figures, by name. Raises: LauncherEndedError."""
        ...


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the percentile of values in ascending order, by nearest rank."""
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def spread_ms(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return ``{name}_p50_ms`` and the other percentiles; empty if there are no values."""
    if not seconds:
        return {}
    ordered = sorted(1e3 * each for each in seconds)
    return {f"{name}_p{percent}_ms": round(percentile(ordered, percent), 3) for percent in (50, 95, 99)}


def rate(began: float, finished_at: Sequence[float]) -> float:
    """Requests a second from the first submission to the last one's end, start and end of the load included."""
    return round(len(finished_at) / (max(finished_at) - began), 1) if finished_at else 0.0


def _has(values: Sequence[float], count: int) -> bool:
    return len(values) >= count


def told(subject: Subject) -> dict[str, Any]:
    """Return the figures that every load has."""
    record = subject.zuul.record
    return {
        **spread_ms("latency", record.latencies_s), **spread_ms("recycle", record.recycles_s), **subject.memory(),
        "registered_s": subject.registered_s, "submitted": record.submitted, "failed": record.failed,
        "finished": len(record.finished_at), "errors": len(record.errors), "first_errors": record.errors[:3],
    }  # fmt: skip


@dataclass(frozen=True)
class Latency:
    """Single requests at random moments, so that the launcher is idle when a request arrives."""

    count: int = 100
    pause_s: float = 0.2
    hold_s: float = 0.0
    watches_nodes: bool = True
    timeout_s: float = 300.0

    async def run(self, subject: Subject) -> dict[str, Any]:
        before, record = subject.sample(), subject.zuul.record
        deadline = time.monotonic() + self.timeout_s
        for number in range(1, self.count + 1):
            subject.zuul.submit(LABEL)
            if not await subject.until(partial(_has, record.finished_at, number), deadline - time.monotonic()):
                break
            await asyncio.sleep(self.pause_s * random.uniform(0.5, 1.5))
        left = await subject.nodes_left(GONE_TIMEOUT_S)
        cost = subject.sample().since(before).per_request(len(record.finished_at))
        return {**cost, **told(subject), "nodes_left": left}


@dataclass(frozen=True)
class Closed:
    """A constant number of outstanding requests, until *count* are submitted or *seconds* are over."""

    window: int = 200
    count: int = 3000
    seconds: float = 30.0
    hold_s: float = 0.0
    watches_nodes: bool = False
    grace_s: float = GONE_TIMEOUT_S
    """Time limit for the last requests to be answered, and then for the nodes to be gone."""

    async def run(self, subject: Subject) -> dict[str, Any]:
        """Return the figures. CPU and operations are counted until the last node is gone: the requests' whole life."""
        record, zuul = subject.zuul.record, subject.zuul
        already = len(record.finished_at)
        before, stop_at, last = subject.sample(), time.monotonic() + self.seconds, record.submitted + self.count

        def again() -> None:
            if record.submitted < last and time.monotonic() < stop_at:
                zuul.submit(LABEL)

        zuul.on_finished = again
        for _ in range(min(self.window, self.count)):
            zuul.submit(LABEL)
        is_done = await subject.until(lambda: len(record.finished_at) >= record.submitted, self.seconds + self.grace_s)
        left = await subject.nodes_left(self.grace_s)
        finished = record.finished_at[already:]
        cost = subject.sample().since(before).per_request(len(finished))
        return {
            **cost, **told(subject), "requests_per_s": rate(before.wall_s, finished), "nodes_left": left,
            "is_complete": is_done, "window": self.window,
        }  # fmt: skip


@dataclass(frozen=True)
class Shared(Closed):
    """The same load with several launchers that compete for each request; also counts rejected writes."""

    async def run(self, subject: Subject) -> dict[str, Any]:
        server = subject.server
        sessions = {session for process in subject.processes for session in server.sessions(process.pid)}
        zxid = server.zxid
        figures = await super().run(subject)
        lost = server.rejected(sessions, zxid)
        return {**figures, "rejected_writes_per_request": round(lost / max(1, figures["requests"]), 3)}


@dataclass(frozen=True)
class Burst:
    """*count* requests at once."""

    count: int = 1000
    hold_s: float = 0.0
    watches_nodes: bool = False
    timeout_s: float = 300.0

    async def run(self, subject: Subject) -> dict[str, Any]:
        before, record = subject.sample(), subject.zuul.record
        began = time.monotonic()
        for _ in range(self.count):
            subject.zuul.submit(LABEL)
        is_done = await subject.until(lambda: len(record.finished_at) >= self.count, self.timeout_s)
        left = await subject.nodes_left(GONE_TIMEOUT_S)
        gone_s = time.monotonic() - began
        cost = subject.sample().since(before).per_request(len(record.finished_at))
        fulfilled_s = max(record.fulfilled_at, default=began) - began
        return {
            **cost, **told(subject), "nodes_left": left, "is_complete": is_done, "all_gone_s": round(gone_s, 2),
            "all_fulfilled_s": round(fulfilled_s, 2), "requests_per_s": rate(began, record.finished_at),
            "most_overtaken": record.most_overtaken,
        }  # fmt: skip


@dataclass(frozen=True)
class Backlog:
    """A burst on pools that are far too small for it; measures the time against the ideal, and the order."""

    count: int = 2000
    hold_s: float = 1.0
    watches_nodes: bool = False
    timeout_s: float = 300.0

    async def run(self, subject: Subject) -> dict[str, Any]:
        burst = Burst(self.count, self.hold_s, timeout_s=self.timeout_s)
        figures = await burst.run(subject)
        setup = subject.setup
        slots = setup.pools * setup.servers * setup.launchers
        served = figures["finished"]
        ideal_s = served / slots * (self.hold_s + setup.boot_s)
        ratio = figures["all_gone_s"] / ideal_s if ideal_s else None
        return {
            **figures,
            "slots": slots,
            "ideal_s": round(ideal_s, 2),
            "times_ideal": round(ratio, 3) if ratio else None,
        }


@dataclass(frozen=True)
class Start:
    """The first request, made before the launcher starts; then the cost of an idle launcher; then latency."""

    hold_s: float = 0.0
    watches_nodes: bool = False
    timeout_s: float = 300.0
    idle_s: float = 10.0
    after: int = 30
    """Number of requests for the latency."""

    async def run(self, subject: Subject) -> dict[str, Any]:
        record, process = subject.zuul.record, subject.processes[0]
        await subject.until(lambda: bool(record.fulfilled_at), self.timeout_s)
        started = subject.sample()
        first = {
            "first_fulfilled_s": round(record.fulfilled_at[0] - process.started_at, 3) if record.fulfilled_at else None,
            "start_operations": started.received, "start_cpu_s": round(started.launcher_s, 3),
            "records": subject.setup.foreign_nodes + subject.setup.foreign_requests,
        }  # fmt: skip
        if not record.fulfilled_at:
            return {**first, **told(subject), "is_complete": False}
        record.latencies_s.clear()
        idle = await idle_percent(subject, self.idle_s)
        figures = await Latency(self.after).run(subject)
        return {**figures, **first, "idle_cpu_percent": idle}


async def idle_percent(subject: Subject, seconds: float) -> float:
    """CPU of the launchers while there are no requests, in per cent of a core."""
    await asyncio.sleep(seconds / 2)
    before = subject.sample()
    await asyncio.sleep(seconds)
    spent = subject.sample().since(before)
    return round(100 * spent.launcher_s / spent.wall_s, 3)


@dataclass(frozen=True)
class Lives:
    """Many requests, with a constant number outstanding; measures the memory that remains in use."""

    count: int = 20_000
    warm_up: int = 2000
    window: int = 100
    seconds: float = 300.0
    hold_s: float = 0.0
    watches_nodes: bool = False

    async def run(self, subject: Subject) -> dict[str, Any]:
        idle_mib = subject.memory()["rss_mib"]
        await Closed(self.window, self.warm_up, self.seconds).run(subject)
        warm_mib = subject.memory()["rss_mib"]
        figures = await Closed(self.window, self.count, self.seconds).run(subject)
        lives = max(1, figures["requests"])
        grown = figures["rss_mib"] - warm_mib
        return {
            **figures, "idle_rss_mib": idle_mib, "warm_rss_mib": warm_mib, "rss_growth_mib": round(grown, 1),
            "rss_growth_bytes_per_request": round(grown * 2**20 / lives),
        }  # fmt: skip
