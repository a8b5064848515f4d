"""Counters and histograms that several updates per request can afford.

prometheus_client makes the page of them. Its own metrics are thread-safe, look up labels on each update and search all
buckets: the dozen updates for a request would be a tenth of the request's cost. These classes are updated on the event
loop only.
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
"""Values of labels, in the order of the metric's label names."""


class Tally(Collector):
    """A counter. *name* is without ``_total``."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._counts: dict[Labels, int] = {}

    def count(self, labels: Labels) -> None:
        """Count one more event."""
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for labels, count in sorted(self._counts.copy().items()):
            family.add_metric(labels, count)
        yield family


class _Cell:
    """The observations of one set of label values."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        """Number of values for which a bucket is the first that holds them."""
        self.sum = 0.0


class Histogram(Collector):
    """A histogram with one bucket up to each of *bounds*, in ascending order, and one without a bound.

    *total*: name (without ``_total``) and text of a counter of the observations; None: no such counter.
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
        """Record an observed value."""
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
