"""A circuit breaker: stops trying what keeps failing, lets one try through now and then, and closes when one succeeds.

Time and the random part of pauses are given. Times are seconds of any one clock that does not run backwards. What does
*not* belong here: waiting, and what a breaker is for (engine/provider/breakers.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class BreakerChange(enum.Enum):
    """What a result did to a breaker, where it is worth telling."""

    OPENED = "opened"
    OTHER_REASON = "open for another reason"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class FailureCause:
    """Why a try failed. Causes of one *kind* are the same reason, whatever the *detail* says."""

    kind: str
    detail: str

    def __str__(self) -> str:
        return self.detail or self.kind


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When breakers of one kind open, and for how long."""

    threshold: int
    """So many failures in a row open it."""
    first_s: float
    """The pause after it opened. It doubles with each probe that fails."""
    last_s: float
    """The longest pause."""


class Breaker:
    """Tell it how tries end; ask it whether one may be made.

    Invariants: it is open from the failure that reaches the threshold until a success of a try that began since; while
    it is open, one try may be made in each pause, the probe. A pause ends, whatever became of its probe.
    """

    __slots__ = ("_is_probed", "_pause_s", "_rule", "cause", "failures", "next_at", "since")

    def __init__(self, rule: BreakerRule) -> None:
        self.failures: int = 0
        """In a row, as far as they were told."""
        self.cause: FailureCause | None = None
        """Of the last failure; while it is open, of the first since then that was of its kind."""
        self.since: float | None = None
        """When it opened; None: it is closed."""
        self.next_at: float = 0.0
        """When the next probe may be made."""
        self._rule = rule
        self._pause_s = 0.0
        self._is_probed = False
        """Whether a probe is under way."""

    @property
    def is_open(self) -> bool:
        return self.since is not None

    def may_try(self, now: float) -> bool:
        return self.since is None or now >= self.next_at

    def probe(self, now: float, *, spread: float = 1.0) -> None:
        """Note that the probe is made; should it never end, the next one may be made after another pause."""
        if self.since is not None:
            self._is_probed = True
            self.next_at = now + self._pause_s * spread

    def failed(
        self, now: float, cause: FailureCause, *, after_s: float = 0.0, spread: float = 1.0
    ) -> BreakerChange | None:
        """Note a failure. *after_s*: the pause that was asked for, which goes before ours up to the limit; 0: none was.
        *spread*: the factor for our pause, 1 or more, chosen at random so that several processes don't probe together.

        While it is open, a failure that is no probe's belongs to a try of before: it makes no pause longer.
        """
        self.failures += 1
        if self.since is None:
            self.cause = cause
            if self.failures < self._rule.threshold:
                return None
            self.since, self._pause_s = now, self._rule.first_s
            change: BreakerChange | None = BreakerChange.OPENED
        elif not self._is_probed:
            return None
        else:
            self._is_probed = False
            self._pause_s = min(self._rule.last_s, 2 * self._pause_s)
            change = None
            if self.cause is None or self.cause.kind != cause.kind:
                self.cause, change = cause, BreakerChange.OTHER_REASON
        self.next_at = now + (min(self._rule.last_s, after_s) or self._pause_s * spread)
        return change

    def succeeded(self, began: float) -> BreakerChange | None:
        """Note the success of a try that *began* then. One from before it opened does not close it."""
        if self.since is not None and began < self.since:
            return None
        change = None if self.since is None else BreakerChange.CLOSED
        self.failures, self.cause, self.since, self._is_probed = 0, None, None, False
        return change


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """An open breaker, for people and programs."""

    what: str
    reason: str
    failures: int
    open_for_s: float
    next_try_in_s: float

    def __str__(self) -> str:
        due_s = self.next_try_in_s
        due = f"next try in {due_s:.0f} s" if due_s > 0 else "tried again with the next launch"
        return f"{self.what}: {self.failures} failed in a row, open for {self.open_for_s:.0f} s, {due}: {self.reason}"
