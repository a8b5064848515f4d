"""The table of docs/reliability.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from crash.matrix import Result
from crash.steps import Cell, cells

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
HEAD = "| step | recovery | store | lists | points | all holds after | two instances for a while |"
RULE = "| --- | --- | --- | --- | ---: | ---: | ---: |"
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (\d+) \| (\d+) \| (\d+) \|$")


def table(results: Iterable[Result]) -> str:
    return "\n".join([HEAD, RULE, *map(_row, results)])


def _row(result: Result) -> str:
    held = result.points - len(result.failures)
    return _line((*_axes(result.cell), result.points, held, result.twins))


def _line(columns: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, columns))} |"


def _axes(cell: Cell) -> tuple[str, str, str, str]:
    return (cell.step.name, cell.recovery.value, cell.store.value, cell.lists.value)


def rows() -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the numbers on the page by cell: points, points that hold, points with two instances."""
    found = [match for line in PAGE.read_text().splitlines() if (match := ROW.match(line))]
    return {match.groups()[:4]: tuple(map(int, match.groups()[4:])) for match in found}


def wanted() -> list[tuple[str, ...]]:
    """The rows that the page has to have."""
    return [_axes(cell) for cell in cells()]


def numbers_of(cell: Cell) -> tuple[int, ...]:
    """Return the page's numbers for the cell: points, points that hold, points with two instances."""
    return rows()[_axes(cell)]


def write(results: Iterable[Result]) -> None:
    """Put these rows into the table, in the place of what it says of their cells; cells that are no more go."""
    lines = {axes: _line((*axes, *numbers)) for axes, numbers in rows().items()}
    lines |= {_axes(result.cell): _row(result) for result in results}
    text = PAGE.read_text()
    begin = text.index(HEAD)
    end = text.index("\n\n", begin)
    PAGE.write_text(
        "\n".join([text[:begin] + HEAD, RULE, *(lines[axes] for axes in wanted() if axes in lines)]) + text[end:]
    )
