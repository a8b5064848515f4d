"""A cloud whose quota is used up is asked again after pauses."""

from __future__ import annotations

import asyncio

import pytest

from nodelaunch.engine.provider.refusals import (
    AWAITED_REFRESH_S,
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    AwaitedRefresh,
    QuotaRefusals,
)

pytestmark = pytest.mark.looptime


class Calls:
    """Times of a function's calls."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self) -> None:
        self.at.append(round(asyncio.get_running_loop().time()))


async def test_pauses_double_up_to_a_limit_however_often_it_is_refused() -> None:
    refusals = QuotaRefusals(Calls())
    pauses = []
    for _ in range(2000):
        refusals.refused()
        pauses.append(refusals.pause_s)
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LAST_PAUSE_S
    refusals.close()


async def test_end_of_the_pause_is_told_once() -> None:
    calls = Calls()
    refusals = QuotaRefusals(calls)
    refusals.refused()
    refusals.refused()
    assert refusals.is_active
    await asyncio.sleep(100)
    assert (refusals.is_active, calls.at) == (False, [2])


async def test_something_gone_ends_the_pause_but_not_its_growth() -> None:
    calls = Calls()
    refusals = QuotaRefusals(calls)
    refusals.retry()
    assert calls.at == []
    refusals.refused()
    refusals.retry()
    assert (refusals.is_active, calls.at) == (False, [0])
    refusals.refused()
    assert refusals.pause_s == 2 * FIRST_PAUSE_S
    refusals.close()


async def test_granted_launch_ends_the_pause_and_its_growth() -> None:
    calls = Calls()
    refusals = QuotaRefusals(calls)
    refusals.refused()
    refusals.refused()
    refusals.granted()
    refusals.granted()
    await asyncio.sleep(100)
    assert (refusals.is_active, calls.at) == (False, [0])
    refusals.refused()
    assert refusals.pause_s == FIRST_PAUSE_S
    refusals.close()


async def test_cloud_is_asked_again_while_a_pool_waits() -> None:
    calls = Calls()
    awaited = AwaitedRefresh(calls)
    awaited.set("main", is_awaited=True)
    await asyncio.sleep(AWAITED_REFRESH_S / 2)
    awaited.set("other", is_awaited=True)
    awaited.set("main", is_awaited=False)
    await asyncio.sleep(2 * AWAITED_REFRESH_S)
    assert calls.at == [AWAITED_REFRESH_S, 2 * AWAITED_REFRESH_S]
    awaited.set("other", is_awaited=False)
    await asyncio.sleep(10 * AWAITED_REFRESH_S)
    assert len(calls.at) == 2
    awaited.set("main", is_awaited=True)
    awaited.close()
    await asyncio.sleep(10 * AWAITED_REFRESH_S)
    assert len(calls.at) == 2
