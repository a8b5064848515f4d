"""What a run of the checks found, and the level that makes.

What does *not* belong here: running them (running.py), and files for programs (formats.py).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nodelaunch.conformance.levels import LEVELS, Level
from nodelaunch.protocol.driver import ExternalId


class Verdict(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It could not be made; the level that asks for it is not reached."""
    INAPPLICABLE = "inapplicable"
    """It is about something such a driver doesn't do."""
    WAIVED = "waived"
    """It failed, or was skipped, and that was accepted for a time."""


@dataclass(frozen=True, slots=True)
class Result:
    """One check's outcome. ``rule`` is the broken one; ``detail`` the fault, or why the check was skipped."""

    rule: str
    check: str
    verdict: Verdict
    detail: str = ""
    level: Level = Level.BRONZE
    """The lowest that asks for the check."""
    promise: str = field(default="", compare=False)
    took_s: float = field(default=0.0, compare=False)
    is_pointless: bool = field(default=False, compare=False)
    """Whether it was skipped because nothing can be found out about the driver, as an earlier check showed."""

    @property
    def is_in_the_way(self) -> bool:
        """Whether it keeps the driver from its level."""
        return self.verdict in (Verdict.FAILED, Verdict.SKIPPED)

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.rule:<4} {self.verdict.value:<12} {self.check}{detail}"


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one call's successes, seconds."""

    count: int
    median_s: float
    p99_s: float
    longest_s: float

    @classmethod
    def of(cls, took_s: Sequence[float]) -> Latency:
        """*took_s* is not empty."""
        ordered = sorted(took_s)

        def rank(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(len(ordered), rank(0.5), rank(0.99), ordered[-1])


@dataclass(frozen=True, slots=True)
class Report:
    """All results, in the order of the checks; its text is one line for each."""

    subject: str
    results: tuple[Result, ...]
    leftovers: tuple[ExternalId, ...] = ()
    """Instances of this run that could not be deleted."""
    latencies: Mapping[str, Latency] = field(default_factory=dict, compare=False)
    """By the call. Some were made while the cloud was made slow on purpose."""

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.verdict is Verdict.FAILED)

    @property
    def waived(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.verdict is Verdict.WAIVED)

    @property
    def broken_rules(self) -> frozenset[str]:
        return frozenset(result.rule for result in self.failures)

    @property
    def ok(self) -> bool:
        """Whether nothing failed and nothing was left over; skipped checks don't count against it."""
        return not self.failures and not self.leftovers

    @property
    def level(self) -> Level:
        """The highest whose checks, and those of all below it, are all passed."""
        reached = Level.NONE
        for level in LEVELS:
            if self.in_the_way_of(level) or (self.leftovers and level > Level.BRONZE):
                break
            reached = level
        return reached

    @property
    def level_in_words(self) -> str:
        """Waived checks are never passed over in silence."""
        count = len([result for result in self.waived if result.level <= self.level])
        return f"{self.level.value} ({count} waived)" if count else self.level.value

    def in_the_way_of(self, level: Level) -> tuple[Result, ...]:
        """What keeps the driver from *level*."""
        return tuple(result for result in self.results if result.level <= level and result.is_in_the_way)

    def __str__(self) -> str:
        left = (f"left over: {', '.join(self.leftovers)}",) if self.leftovers else ()
        return "\n".join((f"driver {self.subject}", *map(str, self.results), *left))
