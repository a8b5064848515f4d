"""A rule counts once a bug was planted that it finds."""

from __future__ import annotations

import pytest

from fuzz.bugs import BUGS
from fuzz.world import run

SEEDS = 400
"""Within which each has to be found; most show within the first ten."""


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name: str) -> None:
    bug = BUGS[name]
    with bug.plant():
        for seed in range(bug.first_seed, bug.first_seed + SEEDS):
            outcome = run(seed)
            if outcome.rule is not None:
                assert outcome.rule in bug.rules, outcome.report(f"seed {seed} with the bug: {name}")
                return
    pytest.fail(f"not found in {SEEDS} seeds")


def test_report_says_what_is_needed_to_repeat_it() -> None:
    with BUGS["the record goes before the server"].plant():
        outcome = next(found for found in map(run, range(SEEDS)) if found.rule)
    report = outcome.report(f"python -m fuzz {outcome.scenario.seed}")
    assert f"seed {outcome.scenario.seed}: a record goes after its server" in report
    assert f"again: python -m fuzz {outcome.scenario.seed}" in report
    assert report.count("RULE") == 1
