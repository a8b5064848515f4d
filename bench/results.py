"""Results: one JSON object a run, in ``runs.jsonl`` of a folder; their medians, and ratios of medians."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.scenarios import Scenario

Row = dict[str, Any]
FILE = "runs.jsonl"
ROOT = Path(__file__).parents[1]


class Key(NamedTuple):
    scenario: str
    case: str
    launcher: str


def machine() -> Row:
    """Where and of what something is measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit.stdout.strip(),
        "python": platform.python_version(), "cpus": os.cpu_count(),
    }  # fmt: skip


def append(folder: Path, row: Row) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a") as out:
        out.write(json.dumps(row) + "\n")


def load(folder: Path) -> list[Row]:
    """All runs kept in *folder*. Raises: FileNotFoundError."""
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines() if line]


def medians(rows: Iterable[Row]) -> dict[Key, Row]:
    """The median of each figure over the runs of a case that came to an end; ``runs`` and ``broken`` count them."""
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[Key(row["scenario"], row["case"], row["launcher"])].append(row)
    return {key: _median(group) for key, group in groups.items()}


def _median(group: Sequence[Row]) -> Row:
    good = [row for row in group if "error" not in row]
    values: dict[str, list[float]] = defaultdict(list)
    for row in good:
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                values[name].append(value)
    middle = {name: statistics.median(found) for name, found in values.items() if name != "run"}
    incomplete = sum(row.get("is_complete") is False for row in good)
    return {**middle, "runs": len(good), "broken": len(group) - len(good) + incomplete}


class Found(NamedTuple):
    """A ratio as it came out."""

    launcher: str
    name: str
    value: float
    bar: float


def ratios(name: str, scenario: Scenario, found: Mapping[Key, Row]) -> list[Found]:
    """The ratios of *scenario* that both of their cases have been measured for."""
    launchers = sorted({key.launcher for key in found if key.scenario == name})
    result = []
    for each in scenario.ratios:
        for launcher in launchers:
            of = found.get(Key(name, each.of, launcher), {}).get(each.metric)
            over = found.get(Key(name, each.over, launcher), {}).get(each.metric)
            if of is not None and over:
                result.append(Found(launcher, each.name, of / over, each.bar))
    return result
