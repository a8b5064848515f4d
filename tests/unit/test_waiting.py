"""Slots of accepted requests that wait for capacity, and the order in which they get it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.limits.reservations import Reservations
from nodelaunch.engine.limits.waiting import CapacityQueue, out_of_turn
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import NO_LIMITS, NOTHING, Limits, Usage
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

    async def wait(
        self, number: int, key: PoolKey = MAIN, need: Usage = ONE, *, tenant: str | None = None
    ) -> asyncio.Task[None]:
        reservation = self.book.open(key, None, {}, {})
        task = asyncio.create_task(self.queue.wait(a_request(number=number, tenant_name=tenant), 0, need, reservation))
        await asyncio.sleep(0)
        return task

    def grant(
        self, pools: dict[PoolKey, Limits], provider: Limits = NO_LIMITS, *, may_have: bool = True, launches: int = 99
    ) -> None:
        self.queue.grant(Free(self.book, pools, provider, launches), lambda _: may_have)


@dataclass
class Free:
    """Free capacity."""

    book: Reservations
    pools: dict[PoolKey, Limits]
    provider: Limits
    launches: int

    def pool_free(self, key: PoolKey) -> Limits:
        return self.pools.get(key, NO_LIMITS).minus(self.book.of_pool(key))

    def provider_free(self, key: PoolKey) -> Limits:
        return self.provider.minus(self.book.of_provider(key[0]))

    def may_launch_another(self, key: PoolKey) -> bool:
        return self.book.launches_of(key[0]) < self.launches


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


async def test_no_more_is_given_than_may_be_launched_at_once() -> None:
    hall = Hall()
    first, second = await hall.wait(1), await hall.wait(2)
    hall.grant({}, launches=1)
    await first
    assert not second.done()
    hall.book.capacity_released(MAIN, ONE)
    hall.grant({}, launches=1)
    await second


async def test_what_a_tenant_waits_for_is_counted_up_to_each_who_waits() -> None:
    hall = Hall()
    tasks = [await hall.wait(number, tenant=tenant) for number, tenant in ((2, "acme"), (1, "acme"), (3, "other"))]
    second, first, _ = sorted(hall.queue.waiters, key=lambda waiter: waiter.request.id != "200-0000000002")
    assert hall.queue.need_of_tenant("acme") == ONE + ONE
    assert hall.queue.need_until(first) == ONE
    assert hall.queue.need_until(second) == ONE + ONE
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert hall.queue.need_of_tenant("acme") == NOTHING


async def test_only_the_first_request_of_a_tenant_waits_while_it_is_full() -> None:
    hall = Hall()
    task = await hall.wait(2, tenant="acme")
    (waiter,) = hall.queue.waiters
    others = [a_request(number=3, tenant_name="acme"), a_request(number=1, tenant_name="other"), waiter.request]
    assert out_of_turn(waiter, others) is None
    earlier = a_request(number=1, tenant_name="acme")
    assert out_of_turn(waiter, [*others, earlier]) == earlier.id
    task.cancel()
    await asyncio.wait([task])


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
