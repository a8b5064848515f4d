"""docs/monitoring.md names every metric and every kind of event, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from nodelaunch.monitoring.metrics import _Counts, _Facts, _Standing
from nodelaunch.protocol.events import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def _section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def _named(section: str) -> set[str]:
    cells = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    return {name for name in named if not name.startswith("Nodelaunch")}  # alerts


def test_metrics() -> None:
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    counts = _Counts(registry)
    assert counts
    standing = _Standing()
    standing.facts = _Facts(0.0, 0.0, True, True, True, {})
    registry.register(standing)
    made = {
        family.name.removeprefix("nodelaunch_") + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    assert _named(_section("Prometheus")) == made


def test_events() -> None:
    assert _named(_section("Events")) == set(KINDS)
