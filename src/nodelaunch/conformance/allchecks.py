"""All checks, in the order in which a run makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nodelaunch.conformance import checks, crashes, fencechecks, secrecy, truthchecks, wirechecks
from nodelaunch.conformance.registry import Check

CHECKS: Final[Sequence[Check]] = (
    *wirechecks.CHECKS, *checks.CHECKS, *truthchecks.CHECKS, *fencechecks.CHECKS, *secrecy.CHECKS, *crashes.CHECKS,
)  # fmt: skip
BY_NAME: Final = {check.name: check for check in CHECKS}


def checks_for(*, is_process: bool) -> tuple[Check, ...]:
    """Return the checks for a driver in a separate process, or for a driver in this process."""
    return tuple(check for check in CHECKS if is_process or not check.of_processes)


def promise_of(rule: str) -> str:
    """Return the promise of the first check of *rule*; empty if no check has this rule."""
    return next((check.promise for check in CHECKS if check.rule == rule), "")
