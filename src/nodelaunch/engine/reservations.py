"""What this process has decided to use but no record shows yet.

Between a verdict and the node record that follows from it, what the node will take is reserved here, so that no two
handlers count on the same room. What does *not* belong here: limits, and what recorded nodes take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nodelaunch.protocol.quota import Usage


@dataclass(eq=False, slots=True)
class Reservation:
    """What one request may still take, by slot."""

    provider: str
    pool: str
    tenant: str | None
    _book: Reservations
    _room: dict[int, Usage] = field(default_factory=dict)
    _tenant_share: dict[int, Usage] = field(default_factory=dict)

    @property
    def room(self) -> Usage:
        return Usage.total(self._room.values())

    @property
    def launches(self) -> int:
        """How many slots still wait for their node's record."""
        return len(self._room)

    @property
    def tenant_share(self) -> Usage:
        return Usage.total(self._tenant_share.values())

    def has_room_for(self, slot: int) -> bool:
        """Whether there is room reserved for the slot's node to be launched."""
        return slot in self._room

    def add(self, slot: int, room: Usage) -> None:
        """Reserve *room* for the slot's node to be launched."""
        self._room[slot] = room

    def keep_share(self, slot: int, need: Usage) -> None:
        """Keep the tenant's share for the slot's next node, which waits for room."""
        self._tenant_share[slot] = need

    def settle(self, slot: int) -> None:
        """The slot's node has a record, or won't come: from here on the record counts."""
        gave_room_back = self._room.pop(slot, None) is not None
        if self._tenant_share.pop(slot, None) is not None or gave_room_back:
            self._book.changed()

    def close(self) -> None:
        self._book.remove(self)


class Reservations:
    """All reservations of this process."""

    def __init__(self) -> None:
        self._open: list[Reservation] = []
        self.listeners: list[Callable[[], None]] = []
        """Called when something was given back."""

    def open(
        self, provider: str, pool: str, tenant: str | None, room: dict[int, Usage], tenant_share: dict[int, Usage]
    ) -> Reservation:
        """Reserve, by slot, *room* for nodes to be launched and the tenant's share for all nodes."""
        reservation = Reservation(provider, pool, tenant, self, dict(room), dict(tenant_share))
        self._open.append(reservation)
        return reservation

    def remove(self, reservation: Reservation) -> None:
        if reservation in self._open:
            self._open.remove(reservation)
            self.changed()

    def changed(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    def launches_of(self, provider: str) -> int:
        """How many launches are reserved but have no record yet."""
        return sum(reservation.launches for reservation in self._open if reservation.provider == provider)

    def of_provider(self, provider: str) -> Usage:
        return self._total(r.room for r in self._open if r.provider == provider)

    def of_pool(self, provider: str, pool: str) -> Usage:
        return self._total(r.room for r in self._open if (r.provider, r.pool) == (provider, pool))

    def of_tenant(self, tenant: str) -> Usage:
        return self._total(r.tenant_share for r in self._open if r.tenant == tenant)

    @staticmethod
    def _total(usages: Iterable[Usage]) -> Usage:
        return Usage.total(usages)
