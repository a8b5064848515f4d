"""Results as PNG files: one bar for each launcher and case; curves of a soak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import report, results, soak
from bench.results import Key, Row

PLOTS: Mapping[str, tuple[str, ...]] = {
    "latency": ("latency_p50_ms", "latency_p99_ms", "recycle_p50_ms"),
    "closed": ("requests_per_s", "cpu_ms_per_request", "operations_per_request"),
    "burst": ("all_gone_s", "cpu_ms_per_request"),
    "backlog": ("times_ideal", "cpu_ms_per_request"),
    "start": ("first_fulfilled_s", "rss_mib"),
    "scale": ("cpu_ms_per_request",),
    "several": ("requests_per_s", "operations_per_request"),
    "memory": ("rss_growth_mib",),
}
"""The figures that are drawn of each scenario, side by side."""
INCHES = (5.0, 3.6)


def draw(rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    """Write a file for each measured scenario and return the paths. Raises: LookupError without matplotlib."""
    plt = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    found = results.medians(rows)
    for scenario in report.scenario_names(found):
        if scenario in PLOTS:
            metrics = PLOTS[scenario]
            size = (INCHES[0] * len(metrics), INCHES[1])
            figure, axes = plt.subplots(1, len(metrics), figsize=size, squeeze=False, layout="constrained")
            for axis, metric in zip(axes[0], metrics, strict=True):
                _bars(axis, scenario, metric, found)
            path = folder / f"{scenario}.png"
            figure.savefig(path, dpi=120)
            plt.close(figure)
            yield path


def draw_soak(samples: Sequence[soak.Sample], folder: Path) -> Path:
    """Write a file with a curve for each figure that must stay flat and return its path. Raises: as `draw`."""
    plt = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(
        1, len(soak.BARS), figsize=(INCHES[0] * len(soak.BARS), INCHES[1]), layout="constrained"
    )
    minutes = [sample.at_s / 60 for sample in samples]
    for axis, name in zip(axes, soak.BARS, strict=True):
        values = [getattr(sample, name) for sample in samples]
        axis.plot(minutes, values)
        axis.set_ylim(0, 1.2 * max(values))
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.set_xlabel("minutes", fontsize=8)
    path = folder / "soak.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
        from matplotlib import pyplot as plt
    except ImportError:
        raise LookupError("plots need matplotlib: install the extra 'bench'") from None
    mpl.use("Agg")
    return plt


def _bars(axis: Any, scenario: str, metric: str, found: Mapping[Key, Row]) -> None:
    """Draw a group of bars for each case; the scale is logarithmic if the values are far apart."""
    keys = [key for key in found if key.scenario == scenario]
    cases = list(dict.fromkeys(key.case for key in keys))
    launchers = list(dict.fromkeys(key.launcher for key in keys))
    width = 0.8 / len(launchers)
    shown = []
    for place, launcher in enumerate(launchers):
        values = [found.get(Key(scenario, case, launcher), {}).get(metric, 0.0) for case in cases]
        shown += [value for value in values if value > 0]
        bars = axis.bar([at + place * width for at in range(len(cases))], values, width, label=launcher)
        axis.bar_label(bars, labels=[report.number(value) for value in values], fontsize=7)
    if shown and max(shown) > 20 * min(shown):
        axis.set_yscale("log")
    middle = width * (len(launchers) - 1) / 2
    axis.set_xticks([at + middle for at in range(len(cases))], cases, fontsize=8)
    axis.set_title(metric.replace("_", " "), fontsize=9)
    axis.legend(fontsize=7)
