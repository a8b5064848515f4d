"""Wall time behind a port, so that simulations can set it, and the time since the start of the machine.

Durations and deadlines use the event loop's clock (``asyncio.timeout``); this clock is for times that go into records,
or are compared with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


uptime: Callable[[], float] = partial(time.clock_gettime, _BOOT_TIME)
"""Returns seconds since the start of the machine; on Linux, they include the time while the machine sleeps, because the
timeouts of servers continue to run then."""


class Clock(Protocol):
    def now(self) -> float:
        """Return seconds since 1970."""


class WallClock:
    """The time of day."""

    now: Callable[[], float] = staticmethod(time.time)
