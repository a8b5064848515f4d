"""Wall time behind a port, so that simulations can set it; and time since the start of the machine.

Durations and deadlines are the event loop's business (``asyncio.timeout``); only what goes into records, or is compared
with them, comes from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


uptime: Final[Callable[[], float]] = partial(time.clock_gettime, _BOOT_TIME)
"""Seconds that only grow and, on Linux, count while the machine sleeps, too: a server does not wait for it."""


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970."""


class WallClock:
    """The time of day."""

    def now(self) -> float:
        return time.time()
