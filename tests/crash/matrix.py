"""All points of a cell, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crash.site import Verdict, run
from crash.steps import Cell


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a cell."""

    cell: Cell
    points: int
    twins: int
    """Number of points at which a node had two instances for a while, of which one was deleted again."""
    failures: tuple[str, ...]
    """A report of each point after which something did not hold."""


def verdicts(cell: Cell) -> Iterator[tuple[int | None, Verdict]]:
    """First the run without a kill, then one for each point."""
    undisturbed = run(cell, None)
    yield None, undisturbed
    for target in range(undisturbed.points):
        yield target, run(cell, target)


def results_of(cell: Cell) -> Result:
    points = twins = 0
    failures = []
    for target, verdict in verdicts(cell):
        if target is None:
            points = verdict.points
        else:
            twins += bool(verdict.twins)
        if verdict.rule is not None:
            failures.append(verdict.report(cell, target))
    return Result(cell, points, twins, tuple(failures))
