"""A part that fails is run again, after pauses that grow."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from nodelaunch.engine.supervision import FIRST_BACKOFF_S, LAST_BACKOFF_S, supervise
from nodelaunch.errors import SessionLostError, StoreUnavailableError

pytestmark = pytest.mark.looptime


class Part:
    """Runs for a time, and fails, as often as there are errors left."""

    def __init__(self, *errors: Exception, lasts_s: float = 0.0) -> None:
        self.errors = list(errors)
        self.lasts_s = lasts_s
        self.began_at: list[float] = []

    async def run(self) -> None:
        self.began_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.lasts_s)
        if self.errors:
            raise self.errors.pop(0)

    @property
    def pauses(self) -> list[float]:
        starts = self.began_at
        return [round(after - before - self.lasts_s, 3) for before, after in pairwise(starts)]


async def test_part_that_returns_is_not_run_again() -> None:
    part = Part()
    await supervise("part", part.run)
    assert len(part.began_at) == 1


async def test_pauses_grow_whatever_the_failure() -> None:
    part = Part(SessionLostError(), StoreUnavailableError(detail="away"), RuntimeError("unforeseen"))
    await supervise("part", part.run)
    assert part.pauses == [FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S]


async def test_pause_has_a_limit_and_is_short_again_after_a_long_run() -> None:
    part = Part(*[SessionLostError()] * 8)
    await supervise("part", part.run)
    assert part.pauses[-1] == LAST_BACKOFF_S
    part = Part(*[SessionLostError()] * 3, lasts_s=LAST_BACKOFF_S + 1)
    await supervise("part", part.run)
    assert part.pauses == [FIRST_BACKOFF_S] * 3


async def test_cancelling_passes() -> None:
    task = asyncio.create_task(supervise("part", Part(lasts_s=3600).run))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
