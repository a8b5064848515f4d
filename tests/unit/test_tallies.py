"""Counters and histograms of nodelaunch: the page equals that of prometheus_client's own."""

from __future__ import annotations

import prometheus_client as prom
from hypothesis import given
from hypothesis import strategies as st

from nodelaunch.monitoring.tallies import Histogram, Tally

BOUNDS = (0.5, 1, 2.5, 10)
LABELS = ("provider", "result")
SEEN = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(["lab", "cloud"]), st.sampled_from(["ready", 'a "quoted" one'])),
        st.one_of(st.sampled_from([0.0, *BOUNDS]), st.floats(0, 100)),
    ),
    max_size=20,
)


def page(registry: prom.CollectorRegistry) -> list[str]:
    """Its lines in order, without when a metric was made."""
    lines = prom.generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


@given(SEEN)
def test_histogram_says_what_prometheus_clients_does(seen: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = prom.CollectorRegistry(), prom.CollectorRegistry()
    histogram = Histogram("took_seconds", "How long.", LABELS, BOUNDS, total=("calls", "How many."))
    ours.register(histogram)
    known = prom.Histogram("took_seconds", "How long.", LABELS, buckets=BOUNDS, registry=theirs)
    count = prom.Counter("calls", "How many.", LABELS, registry=theirs)
    for labels, value in seen:
        histogram.see(labels, value)
        known.labels(*labels).observe(value)
        count.labels(*labels).inc()
    assert page(ours) == page(theirs)


@given(SEEN)
def test_tally_says_what_prometheus_clients_counter_does(seen: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = prom.CollectorRegistry(), prom.CollectorRegistry()
    tally = Tally("calls", "How many.", LABELS)
    ours.register(tally)
    count = prom.Counter("calls", "How many.", LABELS, registry=theirs)
    for labels, _ in seen:
        tally.count(labels)
        count.labels(*labels).inc()
    assert page(ours) == page(theirs)
