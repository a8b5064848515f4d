"""Order of the runs of `python -m bench run`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import runner
from bench.launchers import Kind, Setup
from bench.loads import Burst
from bench.scenarios import Case, Scenario

CASES = [Case("one", Setup(), Burst())]
KINDS = [Kind("ours", ("true",)), Kind("theirs", ("true",))]


def test_no_launcher_is_always_the_second() -> None:
    order = [(number, kind.name) for number, _, kind in runner.turns(3, CASES, KINDS)]
    assert order == [(0, "ours"), (0, "theirs"), (1, "theirs"), (1, "ours"), (2, "ours"), (2, "theirs")]


def test_pattern_without_a_case_is_an_error_that_names_the_cases(tmp_path: Path) -> None:
    chosen = [("burst", Scenario("a load", CASES))]
    with pytest.raises(LookupError, match="no case matches two: the cases are one"):
        list(runner.run_scenarios(chosen, KINDS, repeat=1, pattern="two", out=tmp_path))
