"""The report of a run: the results of the checks, and the level that the driver reaches."""

from __future__ import annotations

import enum
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nodelaunch.conformance.levels import LEVELS, Level
from nodelaunch.protocol.driver import ExternalId


class Verdict(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The check could not be made; the driver does not reach the level that requires it."""
    INAPPLICABLE = "inapplicable"
    """The check tests something that such a driver doesn't do."""
    WAIVED = "waived"
    """The check failed or was skipped, and a waiver accepts that until a date."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check. ``rule`` is the broken rule; ``detail`` is the fault, or why the check was skipped."""

    rule: str
    check: str
    verdict: Verdict
    detail: str = ""
    level: Level = Level.BRONZE
    """The lowest level that requires the check."""
    promise: str = field(default="", compare=False)
    took_s: float = field(default=0.0, compare=False)
    is_pointless: bool = field(default=False, compare=False)
    """True if the check was skipped because an earlier basic check failed."""

    @property
    def is_in_the_way(self) -> bool:
        """True if the result keeps the driver from the level of the check."""
        return self.verdict in (Verdict.FAILED, Verdict.SKIPPED)

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.rule:<4} {self.verdict.value:<12} {self.check}{detail}"


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of the successful calls of one method, in seconds."""

    count: int
    median_s: float
    p99_s: float
    longest_s: float

    @classmethod
    def of(cls, took_s: Sequence[float]) -> Latency:
        """Return the latency for the durations *took_s*, which is not empty."""
        ordered = sorted(took_s)

        def rank(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(len(ordered), rank(0.5), rank(0.99), ordered[-1])


@dataclass(frozen=True, slots=True)
class Report:
    """All results, in the order of the checks; its text is one line for each."""

    driver: str
    results: tuple[Result, ...]
    leftovers: tuple[ExternalId, ...] = ()
    """Instances of this run that could not be deleted."""
    latencies: Mapping[str, Latency] = field(default_factory=dict, compare=False)
    """Latencies by call. Some calls were made while a fault slowed the cloud down."""

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
        """True if no check failed and no instance was left over; skipped checks are allowed."""
        return not self.failures and not self.leftovers

    @property
    def level(self) -> Level:
        """The highest level for which no check of it, or of a lower level, failed or was skipped."""
        reached = Level.NONE
        for level in LEVELS:
            if self.in_the_way_of(level) or (self.leftovers and level > Level.BRONZE):
                break
            reached = level
        return reached

    @property
    def level_in_words(self) -> str:
        """The level, with the number of waived checks."""
        count = len([result for result in self.waived if result.level <= self.level])
        return f"{self.level.value} ({count} waived)" if count else self.level.value

    def in_the_way_of(self, level: Level) -> tuple[Result, ...]:
        """Return the results that keep the driver from *level*."""
        return tuple(result for result in self.results if result.level <= level and result.is_in_the_way)

    @property
    def subject(self) -> str:
        """The former name of `driver`."""
        warnings.warn("Report.subject is now Report.driver", DeprecationWarning, stacklevel=2)
        return self.driver

    def __str__(self) -> str:
        left = (f"left over: {', '.join(self.leftovers)}",) if self.leftovers else ()
        return "\n".join((f"driver {self.driver}", *map(str, self.results), *left))
