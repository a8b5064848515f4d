"""Slots of accepted requests that wait for capacity: a launch was refused, the leftovers of an attempt still use it, or
another launcher was faster.

They precede all requests that wait to be accepted, and get capacity in the order of their requests.

Requests of one tenant may wait for its share in several launchers, each with nodes that count for the tenant. If each
held half of what both need, they would wait forever. So of all requests of a tenant that launchers work on, only the
first one, in the order of service, continues to wait while the tenant is full. Every other one is handed back, as if it
had never been started: its nodes are then idle and count for no tenant (`out_of_turn`). The first one is never handed
back for that reason. The tenant's other nodes belong to requests that are launching and end by themselves, to requests
whose requestor has the nodes and returns them, or to requests that are being handed back. So the share that the first
one waits for becomes free. Another request may take it first, but then that request is served: at any time some request
makes progress. All launchers see the same requests, if not at the same moment, and look again with each request that is
accepted. A request that waits for `ROOM_WAIT_S`, for any other reason, is handed back too.
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
"""Seconds that a request may wait for capacity before it is handed back, with the nodes it already has."""


@dataclass(eq=False, slots=True)
class Waiter:
    """A slot of an accepted request that waits for capacity."""

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


class CapacityBooks(Protocol):
    """The capacity to give, including the capacity that slots wait for."""

    def pool_free(self, key: PoolKey) -> Limits: ...

    def provider_free(self, key: PoolKey) -> Limits: ...

    def may_launch_another(self, key: PoolKey) -> bool: ...


class CapacityQueue:
    """All waiters of a launcher.

    *on_change* is called with the pool when a slot starts or stops waiting. *on_timeout* is called with a request that
    has waited for `ROOM_WAIT_S`: two requests that each have some of their nodes, and wait for the capacity that the
    other uses, would wait forever.
    """

    def __init__(self, on_change: Callable[[PoolKey], None], on_timeout: Callable[[RequestId], None]) -> None:
        self.waiters: dict[Waiter, None] = {}
        self._on_change = on_change
        self._on_timeout = on_timeout

    def need(self, key: PoolKey) -> Usage:
        """Return the capacity that slots wait for in pool *key*."""
        return Usage.total(w.need for w in self.waiters if w.key == key) if self.waiters else NOTHING

    def need_of_provider(self, provider: str) -> Usage:
        """Return the capacity that slots wait for in all pools of *provider*."""
        return Usage.total(w.need for w in self.waiters if w.key[0] == provider) if self.waiters else NOTHING

    def need_of_tenant(self, tenant: str) -> Usage:
        """Return the capacity that slots wait for, for *tenant*, in all pools."""
        return Usage.total(w.need for w in self.waiters if w.request.tenant_name == tenant) if self.waiters else NOTHING

    def need_until(self, waiter: Waiter) -> Usage:
        """Return the capacity that *waiter*, and earlier waiters of its tenant, wait for, in all pools."""
        tenant, turn = waiter.request.tenant_name, waiter.turn
        return Usage.total(w.need for w in self.waiters if w.request.tenant_name == tenant and w.turn <= turn)

    def first(self, key: PoolKey) -> Waiter | None:
        """Return the next waiter to serve in pool *key*."""
        return min((w for w in self.waiters if w.key == key), key=lambda w: w.turn, default=None)

    async def wait(self, request: NodeRequest, slot: int, need: Usage, reservation: Reservation) -> None:
        """Wait until there is capacity for the slot's node, and it is reserved. The tenant's share is kept
        meanwhile."""
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

    def grant(self, books: CapacityBooks, tenant_allows: Callable[[Waiter], bool]) -> None:
        """Give free capacity to waiters in turn. A waiter does not wait behind another waiter's full tenant."""
        full: set[object] = set()
        """Pools, by key, and providers, by name, where a waiter needs more than is free."""
        for waiter in sorted(self.waiters, key=lambda waiter: waiter.turn):
            key = waiter.key
            if key in full or key[0] in full:
                continue
            if not books.may_launch_another(key) or not books.provider_free(key).allows(waiter.need):
                full.add(key[0])
            elif not books.pool_free(key).allows(waiter.need):
                full.add(key)
            elif not waiter.granted.done() and tenant_allows(waiter):
                waiter.reservation.add(waiter.slot, waiter.need)
                del self.waiters[waiter]
                waiter.granted.set_result(None)


def out_of_turn(waiter: Waiter, pending: Iterable[NodeRequest]) -> RequestId | None:
    """Return an earlier request of the same tenant among the *pending* requests, which launchers work on. If there is
    one and the tenant is full, the waiter's request is handed back. None: it continues to wait."""
    request = waiter.request
    earlier = (each for each in pending if each.tenant_name == request.tenant_name and each.order < request.order)
    return next((each.id for each in earlier), None)
