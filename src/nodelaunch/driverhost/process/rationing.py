"""So much a while and no more: what a driver says beyond that is counted, and the count is said once.

What does *not* belong here: what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Ration:
    """*most* things in *period_s*; *say_dropped* is called at its end with the number of those that were too many."""

    def __init__(self, most: int, period_s: float, say_dropped: Callable[[int], None]) -> None:
        self._most = most
        self._period_s = period_s
        self._say_dropped = say_dropped
        self._count = 0
        self._ends_at = 0.0
        self._ending: asyncio.TimerHandle | None = None

    def allows(self) -> bool:
        """Whether there is room for one more."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._ends_at:
            self.settle()
            self._ends_at = loop.time() + self._period_s
        self._count += 1
        if self._count > self._most and self._ending is None:
            self._ending = loop.call_at(self._ends_at, self.settle)
        return self._count <= self._most

    def settle(self) -> None:
        """The period is over, or nothing more comes."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        dropped, self._count, self._ends_at = self._count - self._most, 0, 0.0
        if dropped > 0:
            self._say_dropped(dropped)
