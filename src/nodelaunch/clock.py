"""Wall time behind a port, so that simulations can set it.

Durations and deadlines are the event loop's business (``asyncio.timeout``); only what goes into records, or is compared
with them, comes from here.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970."""


class WallClock:
    """The time of day."""

    def now(self) -> float:
        return time.time()
