"""Slots of accepted requests that wait for room: a launch was refused, what an attempt left still takes its place, or
another launcher was faster.

They come before all requests that wait to be accepted, and get room in the order of their requests.

Requests of one tenant may wait for its share in several launchers, each with nodes that count for the tenant: if each
held half of what both need, they would wait for ever. So of all requests of a tenant that launchers work on, only the
first one, in the order of service, goes on waiting while the tenant is full. Every other one is handed back, as if it
had never begun: what it held is idle then and counts for nobody (`out_of_turn`). The first one is never handed back for
that. Of the tenant's nodes, those that are not its own belong to requests that are launching and come to an end by
themselves, to requests that their requestor was given and gives back, or to requests that are being handed back. So the
share that it waits for becomes free. Another request may be faster to take it, but that one is served then: at any time
some request gets on. All launchers see the same requests, if not at the same moment, and look again with each that is
taken up. Whoever waits for `ROOM_WAIT_S`, for whatever other reason, is handed back too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.limits.reservations import Reservation
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import NOTHING, Limits, Usage
from nodelaunch.protocol.records import NodeRequest, RequestOrder

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


class Rooms(Protocol):
    """What there is to give, with what is waited for."""

    def pool_room(self, key: PoolKey) -> Limits: ...

    def provider_room(self, key: PoolKey) -> Limits: ...

    def may_launch_another(self, key: PoolKey) -> bool: ...


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

    def need_of_tenant(self, tenant: str) -> Usage:
        """What is waited for, for a tenant, in all pools."""
        return Usage.total(w.need for w in self.waiters if w.request.tenant_name == tenant) if self.waiters else NOTHING

    def need_until(self, waiter: Waiter) -> Usage:
        """What *waiter* waits for, and with it those of its tenant that come before it, in all pools."""
        tenant, turn = waiter.request.tenant_name, waiter.turn
        return Usage.total(w.need for w in self.waiters if w.request.tenant_name == tenant and w.turn <= turn)

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

    def grant(self, rooms: Rooms, tenant_allows: Callable[[Waiter], bool]) -> None:
        """Give what room there is, in turn. Nobody waits for another's tenant."""
        full: set[object] = set()
        """Pools, by key, and providers, by name, in which somebody waits for more than there is."""
        for waiter in sorted(self.waiters, key=lambda waiter: waiter.turn):
            key = waiter.key
            if key in full or key[0] in full:
                continue
            if not rooms.may_launch_another(key) or not rooms.provider_room(key).allows(waiter.need):
                full.add(key[0])
            elif not rooms.pool_room(key).allows(waiter.need):
                full.add(key)
            elif not waiter.granted.done() and tenant_allows(waiter):
                waiter.reservation.add(waiter.slot, waiter.need)
                del self.waiters[waiter]
                waiter.granted.set_result(None)


def out_of_turn(waiter: Waiter, pending: Iterable[NodeRequest]) -> RequestId | None:
    """Of the *pending* requests, those that launchers work on, an earlier one of the same tenant: the waiter's request
    is handed back, if its tenant is full. None: it goes on waiting."""
    request = waiter.request
    earlier = (each for each in pending if each.tenant_name == request.tenant_name and each.order < request.order)
    return next((each.id for each in earlier), None)
