"""A rate limit for log entries of a driver; the entries beyond the limit are counted, and the count is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Ration:
    """A limit of *most* entries in *period_s*; calls *say_dropped* at the end of the period with the excess."""

    def __init__(self, most: int, period_s: float, say_dropped: Callable[[int], None]) -> None:
        self._most = most
        self._period_s = period_s
        self._say_dropped = say_dropped
        self._count = 0
        self._ends_at = 0.0
        self._ending: asyncio.TimerHandle | None = None

    def allows(self) -> bool:
        """Count one entry. Return True if it is within the limit."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._ends_at:
            self.settle()
            self._ends_at = loop.time() + self._period_s
        self._count += 1
        if self._count > self._most and self._ending is None:
            self._ending = loop.call_at(self._ends_at, self.settle)
        return self._count <= self._most

    def settle(self) -> None:
        """End the period and report the excess."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        dropped, self._count, self._ends_at = self._count - self._most, 0, 0.0
        if dropped > 0:
            self._say_dropped(dropped)
