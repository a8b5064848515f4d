"""A circuit breaker: blocks tries after repeated failures, allows a probe now and then, and closes after a success.

Time and the random part of pauses are arguments. Times are seconds of any one clock that does not run backwards.
engine/provider/breakers.py has the breakers of a launcher.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class BreakerChange(enum.Enum):
    """The effect of a result on a breaker, if it is worth a report."""

    OPENED = "opened"
    OTHER_REASON = "open for another reason"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class FailureCause:
    """The cause of a failed try. Two causes of one *kind* count as the same reason, even if their *detail* differs."""

    kind: str
    detail: str

    def __str__(self) -> str:
        return self.detail or self.kind


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """The conditions for breakers of one kind: when they open, and for how long."""

    threshold: int
    """Failures in a row that open the breaker."""
    first_s: float
    """Seconds of the pause after it opened. The pause doubles with each probe that fails."""
    last_s: float
    """Seconds of the longest pause."""


class Breaker:
    """A breaker. Report the result of each try to it, and ask it before a try.

    Invariants: the breaker is open from the failure that reaches the threshold until the success of a try that began
    since; while it is open, one try may be made in each pause, the probe. A pause ends regardless of its probe's
    result.
    """

    __slots__ = ("_is_probed", "_pause_s", "_rule", "cause", "failures", "next_at", "since")

    def __init__(self, rule: BreakerRule) -> None:
        self.failures: int = 0
        """Number of failures in a row."""
        self.cause: FailureCause | None = None
        """The cause of the last failure; while open, of the first failure of that kind since the breaker opened."""
        self.since: float | None = None
        """The time when the breaker opened; None: it is closed."""
        self.next_at: float = 0.0
        """The time when the next probe may be made."""
        self._rule = rule
        self._pause_s = 0.0
        self._is_probed = False
        """True while a probe is under way."""

    @property
    def is_open(self) -> bool:
        return self.since is not None

    def may_try(self, now: float) -> bool:
        return self.since is None or now >= self.next_at

    def probe(self, now: float, *, spread: float = 1.0) -> None:
        """Note that the probe is made. If it never ends, the next one may be made after another pause."""
        if self.since is not None:
            self._is_probed = True
            self.next_at = now + self._pause_s * spread

    def failed(
        self, now: float, cause: FailureCause, *, after_s: float = 0.0, spread: float = 1.0
    ) -> BreakerChange | None:
        """Note a failure. *after_s*: the pause that the other side asked for, which is used up to the limit; 0: none.
        *spread*: the factor for our own pause, 1 or more, chosen at random so that several processes don't probe
        together.

        While the breaker is open, only the probe's failure makes the pause longer: any other failure is of an earlier
        try.
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
        """Note the success of a try that *began* then. A try from before the breaker opened does not close it."""
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
