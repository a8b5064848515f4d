"""Synchronous calls in threads: lanes, pace, deadlines, and calls whose callers have left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from nodelaunch.drivers.openstack.bridge import THREADS, Bridge, Lane, Pace

DEADLINE_S = 30.0


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    made = Bridge("lab")
    async with asyncio.timeout(DEADLINE_S):
        yield made
        await made.aclose()


@pytest.fixture
async def release(bridge: Bridge) -> AsyncIterator[threading.Event]:
    """Yield an event that is set at the end of a test, passed or failed: threads cannot be stopped."""
    event = threading.Event()
    yield event
    event.set()


async def test_outcome_and_error_of_a_call_come_through(bridge: Bridge) -> None:
    assert await bridge.run(Lane.READ, lambda: 7, timeout_s=DEADLINE_S) == 7
    with pytest.raises(ZeroDivisionError):
        await bridge.run(Lane.READ, lambda: 1 // 0, timeout_s=DEADLINE_S)


async def test_full_lane_holds_up_no_other(bridge: Bridge, release: threading.Event) -> None:
    deletes = [
        asyncio.ensure_future(bridge.run(Lane.DELETE, release.wait, timeout_s=DEADLINE_S))
        for _ in range(THREADS[Lane.DELETE] * 3)
    ]
    assert await bridge.run(Lane.READ, lambda: "listed", timeout_s=DEADLINE_S) == "listed"
    assert await bridge.run(Lane.CREATE, lambda: "created", timeout_s=DEADLINE_S) == "created"
    assert not any(task.done() for task in deletes)
    release.set()
    await asyncio.gather(*deletes)


async def test_lane_has_no_more_calls_at_a_time_than_threads(bridge: Bridge, release: threading.Event) -> None:
    began = threading.Semaphore(0)

    def call() -> None:
        began.release()
        release.wait()

    count = THREADS[Lane.READ]
    calls = [asyncio.ensure_future(bridge.run(Lane.READ, call, timeout_s=DEADLINE_S)) for _ in range(count + 3)]
    for _ in range(count):
        assert await asyncio.to_thread(began.acquire, timeout=DEADLINE_S)
    assert not began.acquire(blocking=False)
    release.set()
    await asyncio.gather(*calls)


async def test_call_whose_caller_is_gone_is_waited_for(bridge: Bridge, release: threading.Event) -> None:
    """Its effect can be seen once `settled` returns."""
    began, effect = threading.Event(), []

    def create() -> None:
        began.set()
        release.wait()
        effect.append("server")

    caller = asyncio.ensure_future(bridge.run(Lane.CREATE, create, timeout_s=DEADLINE_S))
    assert await asyncio.to_thread(began.wait, DEADLINE_S)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    settled = asyncio.ensure_future(bridge.settled())
    await asyncio.sleep(0)
    assert not settled.done()
    release.set()
    await settled
    assert effect == ["server"]


async def test_call_that_takes_too_long_keeps_its_thread(bridge: Bridge, release: threading.Event) -> None:
    with pytest.raises(TimeoutError):
        await bridge.run(Lane.READ, release.wait, timeout_s=0.01)
    for _ in range(THREADS[Lane.READ] - 1):
        with pytest.raises(TimeoutError):
            await bridge.run(Lane.READ, release.wait, timeout_s=0.01)
    waiting = asyncio.ensure_future(bridge.run(Lane.READ, lambda: "at last", timeout_s=DEADLINE_S))
    await asyncio.sleep(0)
    release.set()
    assert await waiting == "at last"


@pytest.mark.looptime
async def test_calls_are_paced_and_lanes_take_turns() -> None:
    pace = Pace(1.0)
    turns: list[tuple[str, float]] = []

    async def caller(lane: Lane) -> None:
        await pace.turn(lane)
        turns.append((lane.value, asyncio.get_running_loop().time()))

    await asyncio.gather(*(caller(Lane.DELETE) for _ in range(4)), caller(Lane.CREATE), caller(Lane.READ))
    times = [round(at, 3) for _, at in turns]
    assert times == [0, 1, 2, 3, 4, 5]
    assert {lane for lane, _ in turns[:3]} == {"create", "delete", "read"}


@pytest.mark.looptime
async def test_turn_of_one_who_left_goes_to_the_next() -> None:
    pace = Pace(1.0)
    await pace.turn(Lane.READ)
    gone, next_ = asyncio.ensure_future(pace.turn(Lane.READ)), asyncio.ensure_future(pace.turn(Lane.READ))
    await asyncio.sleep(0)
    gone.cancel()
    await next_
    assert asyncio.get_running_loop().time() == pytest.approx(1.0)


async def test_pace_of_nothing_holds_nobody_up() -> None:
    pace = Pace(0.0)
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(1000):
            await pace.turn(Lane.READ)
