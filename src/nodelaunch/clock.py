"""Wall time behind a port, so that simulations can set it; and time since the start of the machine.

Durations and deadlines are the event loop's business (``asyncio.timeout``); only what goes into records, or is compared
with them, comes from here.
"""

from __future__ import annotations

import time
from typing import Protocol

_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Seconds that only grow and, on Linux, count while the machine sleeps, too: a server does not wait for it."""
    return time.clock_gettime(_BOOT_TIME)


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970."""


class WallClock:
    """The time of day."""

    def now(self) -> float:
        return time.time()
