"""What a run of the checks found.

What does *not* belong here: running them (running.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from nodelaunch.protocol.driver import ExternalId


class Verdict(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """One check's outcome. ``rule`` is the broken one; ``detail`` the fault, or why the check was skipped."""

    rule: str
    check: str
    verdict: Verdict
    detail: str = ""

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.rule} {self.verdict.value:<7} {self.check}{detail}"


@dataclass(frozen=True, slots=True)
class Report:
    """All results, in the order of the checks; its text is one line for each."""

    subject: str
    results: tuple[Result, ...]
    leftovers: tuple[ExternalId, ...] = ()
    """Instances of this run that could not be deleted."""

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.verdict is Verdict.FAILED)

    @property
    def broken_rules(self) -> frozenset[str]:
        return frozenset(result.rule for result in self.failures)

    @property
    def ok(self) -> bool:
        """Whether nothing failed and nothing was left over; skipped checks don't count against it."""
        return not self.failures and not self.leftovers

    def __str__(self) -> str:
        left = (f"left over: {', '.join(self.leftovers)}",) if self.leftovers else ()
        return "\n".join((f"driver {self.subject}", *map(str, self.results), *left))
