"""All checks, in the order they are made.

What does *not* belong here: any check.
"""

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
    """Those there are for a driver in a process of its own, or for one in this."""
    return tuple(check for check in CHECKS if is_process or not check.of_processes)


def promise_of(rule: str) -> str:
    """What a driver that keeps *rule* does, as the first check of it says; empty where none is of it."""
    return next((check.promise for check in CHECKS if check.rule == rule), "")
