"""What a check is. To add one, write a coroutine in the module of its kind and decorate it.

What does *not* belong here: any check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nodelaunch.conformance.bench import Bench
from nodelaunch.conformance.levels import Level

Run = Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """``rule`` is that of docs/driver-contract.md, ``promise`` what a driver that passes does."""

    rule: str
    name: str
    promise: str
    run: Run
    level: Level
    """The lowest that asks for it."""
    of_processes: bool = False
    """Whether it is about drivers in processes of their own only."""
    is_basic: bool = False
    """Whether nothing else can be found out about a driver that fails it."""


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
