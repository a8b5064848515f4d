"""Hours of work at a constant rate: checks that a launcher's memory, tasks, descriptors and znodes do not grow.

The tasks are counted by SIGUSR2, on which ``nodelaunch serve`` logs a line for each.
What does *not* belong here: drawing (plots.py).
"""

from __future__ import annotations

import asyncio
import csv
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench import proc
from bench.launchers import LABEL, Setup, nodelaunch
from bench.loads import percentile
from bench.subject import Subject, opened
from bench.zk.server import running

FILE = "soak.csv"
SETUP = Setup(driver="fake", servers=400, boot_s=0.5, is_cloud_kept=True)
HOLD_S = 2.0
"""Time that each node is in use; at 50 requests a second there are some 130 nodes."""
EVERY_S = 10.0
COUNT_S = 0.5
"""Pause in the log after which a launcher has logged all its tasks."""
DRAIN_TIMEOUT_S = 120.0
MOST_WARM_UP_S = 300.0
MOST_OPEN = 300
"""Limit of requests that wait for nodes or use them: more than twice their number when the machine keeps up."""
TASK_LINE = b"task_stack"


class Sample(NamedTuple):
    """A sample, *at_s* seconds after the start of the load."""

    at_s: float
    rss_mib: float
    tasks: int
    descriptors: int
    znodes: int
    submitted: int
    finished: int
    latency_p50_ms: float
    latency_p99_ms: float
    """Time from submission to reading `fulfilled`, for the requests since the last sample."""
    cpu_percent: float
    """Share of one core, since the last sample."""


@dataclass(frozen=True)
class Bar:
    """Limit of a figure in the last quarter: its median of the first quarter, times a factor, plus a constant."""

    times: float
    more: float


BARS = {"rss_mib": Bar(1.03, 2.0), "tasks": Bar(1.1, 30), "descriptors": Bar(1.0, 2), "znodes": Bar(1.1, 50)}
"""Limits by name of the figure, for the medians of its samples. Tasks and znodes vary with the nodes."""


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return the figures that are not flat: their median over the last quarter of *samples* is above the limit.

    The first quarter is that after the warm-up: a third of the time, five minutes at most. Samples in which more than
    `MOST_OPEN` requests are open are left out, since what waits has records and tasks; half of them must be left.
    """
    warm_up_s = min(MOST_WARM_UP_S, samples[-1].at_s / 3)
    after = [sample for sample in samples if sample.at_s >= warm_up_s]
    warm = [sample for sample in after if sample.submitted - sample.finished <= MOST_OPEN]
    if 2 * len(warm) < len(after):
        return [f"it did not keep up with the requests in {len(after) - len(warm)} of {len(after)} samples"]
    quarter = max(1, len(warm) // 4)
    found = []
    for name, bar in BARS.items():
        first, last = (
            statistics.median(getattr(each, name) for each in part) for part in (warm[:quarter], warm[-quarter:])
        )
        if last > first * bar.times + bar.more:
            found.append(f"{name} grew from {first:g} to {last:g}")
    return found


def load(path: Path) -> list[Sample]:
    """Read the samples. Raises: FileNotFoundError."""
    with path.open(newline="") as file:
        return [Sample(*map(float, row)) for row in list(csv.reader(file))[1:]]  # type: ignore[arg-type]


def run(*, seconds: float, rate: float, out: Path) -> list[str]:
    """Write samples to *out* and return the faults."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, running(Path(folder)) as server:

        async def soaked() -> list[str]:
            async with opened(server, nodelaunch(), SETUP, Path(folder), hold_s=HOLD_S) as subject:
                return await _Soak(subject, seconds, rate, out).run()

        return asyncio.run(soaked())


class _Soak:
    """A run of the soak."""

    def __init__(self, subject: Subject, seconds: float, rate: float, out: Path) -> None:
        self._subject = subject
        self._seconds = seconds
        self._rate = rate
        self._out = out
        self._began = time.monotonic()
        self._log_at = self._latencies_at = 0
        self._spent: tuple[float, float] = (self._began, 0.0)
        self._samples: list[Sample] = []

    async def run(self) -> list[str]:
        record = self._subject.zuul.record
        with rows(self._out) as write:
            idle = await self._sample()
            self._began = time.monotonic()
            asking = asyncio.ensure_future(self._ask())
            while not asking.done():
                await asyncio.wait([asking], timeout=EVERY_S - 2 * COUNT_S)
                if not asking.done():
                    self._samples.append(await self._sample())
                    write(self._samples[-1])
            await asking
        is_done = await self._subject.until(lambda: not self._subject.zuul.open, DRAIN_TIMEOUT_S)
        left = await self._subject.nodes_left(DRAIN_TIMEOUT_S)
        after = await self._sample()
        wrong = [*record.errors[:20], *growth(self._samples)]
        if not is_done or record.failed or record.submitted != len(record.finished_at):
            wrong.append(f"of {record.submitted} requests {len(record.finished_at)} ended, {record.failed} failed")
        if left or after.tasks > idle.tasks + BARS["tasks"].more or after.znodes > idle.znodes + BARS["znodes"].more:
            wrong.append(f"at rest there is more than before: {left} nodes, {idle} to {after}")
        return wrong

    async def _ask(self) -> None:
        """Submit each request at its time, without waiting for earlier requests."""
        for number in range(int(self._seconds * self._rate)):
            await asyncio.sleep(self._began + number / self._rate - time.monotonic())
            self._subject.zuul.submit(LABEL)

    async def _sample(self) -> Sample:
        (process,) = self._subject.processes
        process.check()
        process.signal(signal.SIGUSR2)
        tasks, more = 0, 1
        while more or not tasks:  # a busy machine lets it answer late
            await asyncio.sleep(COUNT_S)
            process.check()
            more = self._count_tasks(process.log)
            tasks += more
        record = self._subject.zuul.record
        ordered = sorted(record.latencies_s[self._latencies_at :]) or [0.0]
        self._latencies_at = len(record.latencies_s)
        (then, spent), self._spent = self._spent, (time.monotonic(), proc.cpu_s(process.pid))
        return Sample(
            round(time.monotonic() - self._began, 1),
            self._subject.memory()["rss_mib"],
            tasks,
            len(os.listdir(f"/proc/{process.pid}/fd")),  # noqa: PTH208  their count is all that is wanted
            int(self._subject.server.monitor()["zk_znode_count"]),
            record.submitted,
            len(record.finished_at),
            round(1e3 * percentile(ordered, 50), 1),
            round(1e3 * percentile(ordered, 99), 1),
            round(100 * (self._spent[1] - spent) / (self._spent[0] - then), 1),
        )

    def _count_tasks(self, log: Path) -> int:
        """Return the tasks in the part of *log* that was added since the last read."""
        with log.open("rb") as file:
            file.seek(self._log_at)
            said = file.read()
        self._log_at += len(said)
        return said.count(TASK_LINE)


@contextmanager
def rows(out: Path) -> Iterator[Callable[[Sample], None]]:
    """Return a function that writes a sample to the file in *out*; the file is emptied first."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Sample._fields)

        def write(sample: Sample) -> None:
            writer.writerow(sample)
            file.flush()

        yield write
