"""Slots of accepted requests that wait for room: a launch was refused, or what an attempt left still takes its place.

They come before all requests that wait to be accepted, and get room in the order of their requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from nodelaunch.engine.reservations import Reservation
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import NOTHING, Limits, Usage
from nodelaunch.protocol.records import NodeRequest, RequestOrder
from nodelaunch.protocol.triage import PoolKey

ROOM_WAIT_S = 120.0
"""How long a request may wait for room before it is handed back, with the nodes it already has."""


@dataclass(eq=False, slots=True)
class Waiter:
    """A slot of an accepted request that waits for room."""

    request: NodeRequest
    slot: int
    need: Usage
    reservation: Reservation
    granted: asyncio.Future[None]

    @property
    def key(self) -> PoolKey:
        return self.reservation.key

    @property
    def turn(self) -> tuple[RequestOrder, int]:
        return (self.request.order, self.slot)


class CapacityQueue:
    """All waiters of a launcher.

    *on_change* is called with the pool when somebody begins to wait, or stops. *on_timeout* is called with a request
    that has waited for `ROOM_WAIT_S`: two that have some of their nodes, and wait for what the other has, would wait
    for ever.
    """

    def __init__(self, on_change: Callable[[PoolKey], None], on_timeout: Callable[[RequestId], None]) -> None:
        self.waiters: dict[Waiter, None] = {}
        self._on_change = on_change
        self._on_timeout = on_timeout

    def need(self, key: PoolKey) -> Usage:
        """What is waited for in pool *key*."""
        return Usage.total(w.need for w in self.waiters if w.key == key) if self.waiters else NOTHING

    def need_of_provider(self, provider: str) -> Usage:
        """What is waited for in all pools of *provider*."""
        return Usage.total(w.need for w in self.waiters if w.key[0] == provider) if self.waiters else NOTHING

    def first(self, key: PoolKey) -> Waiter | None:
        """Who is served next in pool *key*."""
        return min((w for w in self.waiters if w.key == key), key=lambda w: w.turn, default=None)

    async def wait(self, request: NodeRequest, slot: int, need: Usage, reservation: Reservation) -> None:
        """Wait until there is room for the slot's node, and it is reserved. The tenant's share is kept meanwhile."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(request, slot, need, reservation, loop.create_future())
        self.waiters[waiter] = None
        reservation.keep_share(slot, need)
        self._on_change(waiter.key)
        timer = loop.call_later(ROOM_WAIT_S, self._on_timeout, request.id)
        try:
            await waiter.granted
        finally:
            timer.cancel()
            if self.waiters.pop(waiter, waiter) is None:
                self._on_change(waiter.key)

    def grant(
        self,
        pool_left: Callable[[PoolKey], Limits],
        provider_left: Callable[[PoolKey], Limits],
        tenant_allows: Callable[[Waiter], bool],
    ) -> None:
        """Give what room there is, in turn. Nobody waits for another's tenant."""
        full: set[object] = set()
        """Pools, by key, and providers, by name, in which somebody waits for more than there is."""
        for waiter in sorted(self.waiters, key=lambda waiter: waiter.turn):
            key = waiter.key
            if key in full or key[0] in full:
                continue
            if not provider_left(key).allows(waiter.need):
                full.add(key[0])
            elif not pool_left(key).allows(waiter.need):
                full.add(key)
            elif not waiter.granted.done() and tenant_allows(waiter):
                waiter.reservation.add(waiter.slot, waiter.need)
                del self.waiters[waiter]
                waiter.granted.set_result(None)
