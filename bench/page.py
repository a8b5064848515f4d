"""Fills the tables of a page; its prose is written by hand and stays as it is.

A table stands between ``<!-- bench: SCENARIO -->`` and ``<!-- end -->``; what is between them is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench import report, results
from bench.results import Row

_MARKED = re.compile(r"(<!-- bench: (?P<scenario>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(path: Path, rows: Sequence[Row]) -> None:
    """Replace the tables of *path*. Raises: FileNotFoundError; LookupError for a table that nothing is measured for."""
    found = results.medians(rows)
    known = report.scenario_names(found)

    def filled(match: re.Match[str]) -> str:
        if (scenario := match["scenario"]) not in known:
            raise LookupError(f"{path}: nothing is measured for its table {scenario!r}; run that scenario first")
        tables = [report.table(scenario, found)]
        if len(ratios := report.ratio_rows(scenario, found)) > 1:
            tables.append(ratios)
        return match[1] + "\n\n".join(map(_markdown, tables)) + "\n" + match[3]

    path.write_text(_MARKED.sub(filled, path.read_text()))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    rule = ["---", "---", *("--:" for _ in head[2:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([name.replace("_", " ") for name in head], rule, *body))
