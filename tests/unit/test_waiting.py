"""Slots of accepted requests that wait for room: who gets it."""

from __future__ import annotations

import asyncio

from nodelaunch.engine.reservations import Reservations
from nodelaunch.engine.waiting import CapacityQueue
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.triage import PoolKey
from support.builders import a_request

MAIN, OTHER = ("cloud", "main"), ("cloud", "other")
ONE = Usage(instances=1)


class Hall:
    """A queue, with a task for each who waits."""

    def __init__(self) -> None:
        self.changed: list[PoolKey] = []
        self.too_long: list[RequestId] = []
        self.queue = CapacityQueue(self.changed.append, self.too_long.append)
        self.book = Reservations(lambda *_: None)

    async def wait(self, number: int, key: PoolKey = MAIN, need: Usage = ONE) -> asyncio.Task[None]:
        reservation = self.book.open(key, None, {}, {})
        task = asyncio.create_task(self.queue.wait(a_request(number=number), 0, need, reservation))
        await asyncio.sleep(0)
        return task

    def grant(self, pools: dict[PoolKey, Limits], provider: Limits = NO_LIMITS, *, may_have: bool = True) -> None:
        def pool_left(key: PoolKey) -> Limits:
            return pools.get(key, NO_LIMITS).minus(self.book.of_pool(key))

        self.queue.grant(pool_left, lambda key: provider.minus(self.book.of_provider(key[0])), lambda _: may_have)


async def test_room_is_given_in_the_order_of_requests() -> None:
    hall = Hall()
    second, first = await hall.wait(2), await hall.wait(1)
    assert hall.queue.need(MAIN) == hall.queue.need_of_provider("cloud") == ONE + ONE
    head = hall.queue.first(MAIN)
    assert head is not None
    assert head.request.id == a_request(number=1).id
    hall.grant({MAIN: Limits(instances=1)})
    await first
    assert not second.done()
    assert hall.book.of_pool(MAIN) == ONE
    second.cancel()
    await asyncio.wait([second])
    assert (hall.queue.need(MAIN), hall.queue.first(MAIN), hall.changed) == (NOTHING, None, [MAIN] * 3)


async def test_nobody_overtakes_where_room_is_short_and_others_go_on() -> None:
    hall = Hall()
    large, small, other = await hall.wait(1, need=Usage(instances=3)), await hall.wait(2), await hall.wait(3, OTHER)
    hall.grant({MAIN: Limits(instances=2)})
    await other
    assert not large.done()
    assert not small.done()
    hall.grant({MAIN: Limits(instances=4)}, Limits(instances=2))
    hall.grant({}, may_have=False)
    assert len(hall.queue.waiters) == 2
    hall.grant({})
    await asyncio.gather(large, small)
