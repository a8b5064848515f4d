"""The type of a check, and its decorator. To add a check, write a coroutine in a module of checks and decorate it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nodelaunch.conformance.harness import Harness
from nodelaunch.conformance.levels import Level

Run = Callable[[Harness], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check. ``rule`` is its number in docs/driver-contract.md; ``promise`` says what a passing driver does."""

    rule: str
    name: str
    promise: str
    run: Run
    level: Level
    """The lowest level that requires the check."""
    of_processes: bool = False
    """True if the check is only for drivers in separate processes."""
    is_basic: bool = False
    """True if the run ends when a driver fails the check, because the later checks could find out nothing."""


def check(
    checks: list[Check], rule: str, level: Level, *, of_processes: bool = False, is_basic: bool = False
) -> Callable[[Run], Run]:
    """Add the decorated coroutine to *checks*."""

    def add(run: Run) -> Run:
        promise = " ".join((run.__doc__ or "").split())
        name = str(getattr(run, "__name__", ""))
        checks.append(Check(rule, name, promise, run, level, of_processes=of_processes, is_basic=is_basic))
        return run

    return add
