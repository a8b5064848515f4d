"""Counters and histograms that are counted into several times per request.

prometheus_client makes the page of them. Its own metrics are safe for threads, look up each label anew and go through
all buckets; a request's dozen figures would be a tenth of what the request costs. These are counted into on the event
loop only.
What does *not* belong here: what is counted (metrics.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
"""Values of labels, in the order of the metric's names for them."""


class Tally(Collector):
    """A counter. *name* is without ``_total``."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._counts: dict[Labels, int] = {}

    def count(self, labels: Labels) -> None:
        """It happened once more."""
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for labels, count in sorted(self._counts.copy().items()):
            family.add_metric(labels, count)
        yield family


class _Cell:
    """What was seen under one set of labels."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        """How many fell into each bucket, and into no earlier one."""
        self.sum = 0.0


class Histogram(Collector):
    """A histogram with buckets up to each of *bounds*, which grow, and one without a bound.

    *total*: name and text of a counter of what was seen, without ``_total``; None: there is no such counter.
    """

    def __init__(
        self,
        name: str,
        about: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        *,
        total: tuple[str, str] | None = None,
    ) -> None:
        self._name, self._about, self._labels, self._total = name, about, labels, total
        self._bounds: Final = tuple(bounds)
        self._bounds_text: Final = [floatToGoString(bound) for bound in (*bounds, float("inf"))]  # type: ignore[no-untyped-call]
        self._cells: dict[Labels, _Cell] = {}

    def see(self, labels: Labels, value: float) -> None:
        """*value* was measured."""
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = _Cell(len(self._bounds_text))
        cell.counts[bisect_left(self._bounds, value)] += 1
        cell.sum += value

    def collect(self) -> Iterator[Metric]:
        seen = [
            (labels, list(accumulate(cell.counts)), cell.sum) for labels, cell in sorted(self._cells.copy().items())
        ]
        if self._total is not None:
            counter = CounterMetricFamily(*self._total, labels=self._labels)
            for labels, counts, _ in seen:
                counter.add_metric(labels, counts[-1])
            yield counter
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for labels, counts, total in seen:
            family.add_metric(labels, list(zip(self._bounds_text, counts, strict=True)), total)
        yield family
