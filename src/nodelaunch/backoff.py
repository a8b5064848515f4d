"""Growing pauses after failures, by key.

Pure: time is an argument. A pause doubles up to a limit, and is stored as a number, so that it stays finite after any
number of failures.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Backoff(Generic[K]):
    """Computes when a failed try may be repeated, by key. A key without failures may be tried at any time.

    Times are seconds of any one clock that does not run backwards.
    """

    __slots__ = ("_first_s", "_last_s", "_not_before", "_pauses")

    def __init__(self, first_s: float, last_s: float) -> None:
        """*first_s*: the first pause after a success; *last_s*: the longest."""
        self._first_s = first_s
        self._last_s = last_s
        self._pauses: dict[K, float] = {}
        self._not_before: dict[K, float] = {}

    def failed(self, key: K, now: float) -> float:
        """Note a failure. Return the pause until the next try, in seconds."""
        pause = self._pauses.get(key)
        pause = self._first_s if pause is None else min(self._last_s, pause * 2)
        self._pauses[key] = pause
        self._not_before[key] = now + pause
        return pause

    def succeeded(self, key: K) -> None:
        """Forget the failures of *key*."""
        if self._pauses:
            self._pauses.pop(key, None)
            self._not_before.pop(key, None)

    def clear(self) -> None:
        """Forget all failures."""
        self._pauses.clear()
        self._not_before.clear()

    def may_try(self, key: K, now: float) -> bool:
        return now >= self._not_before.get(key, now)

    def pause_left(self, key: K, now: float) -> float | None:
        """Return the seconds until *key* may be tried; None if it has not failed."""
        not_before = self._not_before.get(key)
        return None if not_before is None else max(0.0, not_before - now)

    def __contains__(self, key: K) -> bool:
        """True if *key* has failed and not succeeded since."""
        return key in self._pauses

    def __len__(self) -> int:
        """The number of keys that have failed and not succeeded since."""
        return len(self._pauses)
