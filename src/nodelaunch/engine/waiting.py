"""Accepted requests that wait for room: a launch was refused, or what an attempt left still takes its place.

Room is granted in the order of requests. What does *not* belong here: how much room there is, and waking who looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nodelaunch.engine.reservations import Reservation
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import Limits, Usage
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
    def turn(self) -> tuple[RequestOrder, int]:
        return (self.request.order, self.slot)


class WaitingRoom:
    """*on_change* is called when somebody begins to wait, *on_vain* with a request that has waited for `ROOM_WAIT_S`:
    two that have some of their nodes, and wait for what the other has, would wait for ever."""

    def __init__(self, on_change: Callable[[], None], on_vain: Callable[[RequestId], None]) -> None:
        self._waiters: list[Waiter] = []
        self._on_change = on_change
        self._on_vain = on_vain

    @property
    def waiters(self) -> Sequence[Waiter]:
        return self._waiters

    @property
    def requests(self) -> list[NodeRequest]:
        """Those that wait, each once."""
        return list({waiter.request.id: waiter.request for waiter in self._waiters}.values())

    @property
    def need(self) -> Usage:
        """What is waited for in all."""
        return Usage.total(waiter.need for waiter in self._waiters)

    @property
    def first(self) -> Waiter | None:
        """Who is served next."""
        return min(self._waiters, key=lambda waiter: waiter.turn, default=None)

    async def wait(self, request: NodeRequest, slot: int, need: Usage, reservation: Reservation) -> None:
        """Wait until there is room for the slot's node, and it is reserved. The tenant's share is kept meanwhile."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(request, slot, need, reservation, loop.create_future())
        self._waiters.append(waiter)
        reservation.keep_share(slot, need)
        self._on_change()
        too_long = loop.call_later(ROOM_WAIT_S, self._on_vain, request.id)
        try:
            await waiter.granted
        finally:
            too_long.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def grant(self, room: Callable[[], Limits], tenant_allows: Callable[[Waiter], bool]) -> None:
        """Give what *room* there is, in turn. Nobody waits for another's tenant."""
        for waiter in sorted(self._waiters, key=lambda waiter: waiter.turn):
            if waiter.granted.done() or not room().allows(waiter.need):
                break
            if tenant_allows(waiter):
                waiter.reservation.add(waiter.slot, waiter.need)
                self._waiters.remove(waiter)
                waiter.granted.set_result(None)
