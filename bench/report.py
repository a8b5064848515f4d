"""Results as text: a line for each run, and tables of medians."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench import results
from bench.results import Key, Row
from bench.scenarios import scenarios

FIGURES: Mapping[str, tuple[str, ...]] = {
    "latency": (
        "latency_p50_ms", "latency_p99_ms", "recycle_p50_ms", "cpu_ms_per_request", "operations_per_request", "rss_mib",
    ),
    "closed": (
        "requests_per_s", "cpu_ms_per_request", "operations_per_request", "replies_and_events_per_request",
        "zookeeper_cpu_ms_per_request", "latency_p50_ms", "rss_mib",
    ),
    "burst": ("requests_per_s", "all_gone_s", "cpu_ms_per_request", "operations_per_request", "rss_mib"),
    "backlog": (
        "times_ideal", "all_gone_s", "cpu_ms_per_request", "operations_per_request", "most_overtaken", "rss_mib",
    ),
    "start": (
        "registered_s", "first_fulfilled_s", "start_operations", "start_cpu_s", "idle_cpu_percent", "latency_p50_ms",
        "rss_mib",
    ),
    "scale": ("cpu_ms_per_request", "operations_per_request", "requests_per_s", "rss_mib"),
    "several": (
        "requests_per_s", "cpu_ms_per_request", "operations_per_request", "rejected_writes_per_request", "errors",
    ),
    "memory": ("idle_rss_mib", "warm_rss_mib", "rss_growth_mib", "rss_growth_bytes_per_request", "cpu_ms_per_request"),
    "command": ("wall_ms", "cpu_ms"),
    "scan": ("scan_p50_ms", "scan_p99_ms", "cpu_ms_per_scan", "scans_per_s"),
}  # fmt: skip
"""The figures in the table of each scenario, in order."""
ALWAYS = ("runs", "broken", "other_cpu_percent")


def columns(scenario: str, rows: Iterable[Row]) -> list[str]:
    """Return the figures to show of *scenario*: its entry above, or all of its figures."""
    known = FIGURES.get(scenario)
    if known is None:
        names = {name: None for row in rows for name in row}
        known = tuple(name for name in names if name not in ALWAYS)
    return [*known, *ALWAYS]


def number(value: float | None) -> str:
    """Format with three significant digits, or as a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def table(scenario: str, found: Mapping[Key, Row]) -> list[list[str]]:
    """Heading and rows of the medians of one scenario."""
    mine = {key: row for key, row in found.items() if key.scenario == scenario}
    names = columns(scenario, mine.values())
    rows = [[key.case, key.launcher, *(number(row.get(name)) for name in names)] for key, row in mine.items()]
    return [["case", "launcher", *names], *rows]


def ratio_rows(scenario: str, found: Mapping[Key, Row]) -> list[list[str]]:
    """Heading and rows of the ratios of one scenario; only the heading if there are no ratios."""
    head = ["ratio", "launcher", "value", "bar"]
    if scenario not in (known := scenarios()):
        return [head]
    return [
        head,
        *(
            [each.name, each.launcher, f"{each.value:.2f}", "-" if each.bar == float("inf") else f"{each.bar:g}"]
            for each in results.ratios(scenario, known[scenario], found)
        ),
    ]


def scenario_names(found: Iterable[Key]) -> list[str]:
    """Return each value once, in the order of first appearance."""
    return list(dict.fromkeys(key.scenario for key in found))


def summary(rows: Sequence[Row]) -> str:
    """All medians and ratios, as aligned text."""
    found = results.medians(rows)
    parts = []
    for scenario in scenario_names(found):
        parts += [f"\n{scenario}", *_aligned(table(scenario, found))]
        if len(compared := ratio_rows(scenario, found)) > 1:
            parts += ["", *_aligned(compared)]
    return "\n".join(parts)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def line(row: Row) -> str:
    """Return a run as one line."""
    head = f"{row['scenario']} {row['case']} {row['launcher']} #{row.get('run', 0)}"
    if "error" in row:
        return f"{head}: {row['error']}"
    shown = FIGURES.get(row["scenario"], tuple(name for name, value in row.items() if isinstance(value, (int, float))))
    figures = [f"{name}={number(row.get(name))}" for name in shown]
    if row.get("errors"):
        figures.append(f"errors={row['errors']} {row['first_errors']}")
    return f"{head}: {' '.join(figures)}"
