"""Wherever a launcher is killed: nothing is left, nothing is made twice, each request ends as it has to.

``cd tests; python -m crash`` runs the same and prints the table.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crash import page
from crash.matrix import results_of, verdicts
from crash.steps import Cell, cells
from fuzz.bugs import BUGS
from nodelaunch.engine.launch import node

CELLS = {str(cell): cell for cell in cells()}


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_all_is_well_wherever_the_launcher_is_killed(cell: Cell) -> None:
    result = results_of(cell)
    if result.failures:
        count = f"{len(result.failures)} of {result.points} points"
        pytest.fail(f"{count}; the first:\n{result.failures[0]}", pytrace=False)
    assert result.points
    assert (result.points, result.points, result.twins) == page.numbers_of(cell), "cd tests; python -m crash --write"


def _first_broken(cell: Cell) -> str | None:
    return next((verdict.rule for target, verdict in verdicts(cell) if verdict.rule and target is not None), None)


@pytest.mark.parametrize(
    ("bug", "cell"),
    [
        ("leaks are not looked for", "launch / restart / zookeeper / late"),
        ("nobody resets lost requests", "request / restart / embedded / at once"),
        ("nobody resets lost requests", "take-over / take-over / zookeeper / at once"),
        ("the record goes before the server", "delete / restart / zookeeper / at once"),
    ],
)
def test_matrix_turns_red_with_a_planted_bug(bug: str, cell: str) -> None:
    with BUGS[bug].plant():
        assert _first_broken(CELLS[cell]) is not None


def test_matrix_sees_an_instance_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug resumes a launch without looking for its instance."""

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(node, "_made_before", nothing)
    assert _first_broken(CELLS["adoption / restart / zookeeper / at once"]) == "no instance is made twice for a node"


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crash", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)


def test_command_prints_the_rows_of_a_step() -> None:
    done = _command("delete")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if page.ROW.match(line)] == [
        line for line in page.PAGE.read_text().splitlines() if page.ROW.match(line) and line.startswith("| delete ")
    ]


def test_command_tells_what_happens_at_a_point() -> None:
    done = _command("launch", "--point", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("world          kills nl0") == sum(cell.step.name == "launch" for cell in CELLS.values())
