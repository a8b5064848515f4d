"""Usage that this process has decided on but that no record shows yet.

Between a decision and the node record that follows, the node's usage is reserved here, so that no capacity is given
twice. All sums are updated as reservations change, so a look-up costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.protocol.quota import NOTHING, Usage


@dataclass(eq=False, slots=True)
class Reservation:
    """The usage that one request may still add, by slot."""

    key: PoolKey
    tenant: str | None
    _book: Reservations
    _capacity: dict[int, Usage] = field(default_factory=dict)
    _share: dict[int, Usage] = field(default_factory=dict)

    def has_capacity_for(self, slot: int) -> bool:
        """Return True if capacity is reserved for launching the slot's node."""
        return slot in self._capacity

    def add(self, slot: int, capacity: Usage) -> None:
        """Reserve capacity for launching the slot's node."""
        self._capacity[slot] = capacity
        self._book.capacity_reserved(self.key, capacity)

    def keep_share(self, slot: int, need: Usage) -> None:
        """Keep the tenant's share for the slot's next node, which waits for capacity."""
        if slot not in self._share and self.tenant is not None:
            self._share[slot] = need
            self._book.share_taken(self.tenant, need)

    def settle(self, slot: int) -> None:
        """Close the slot's reservation: its node has a record, which counts from now on, or won't be created."""
        capacity, share = self._capacity.pop(slot, None), self._share.pop(slot, None)
        if capacity is not None:
            self._book.capacity_released(self.key, capacity)
        if share is not None:
            self._book.share_given_back(self.tenant, share)
        if capacity is not None or share is not None:
            self._book.on_given_back(self.key, self.tenant)

    def settle_capacity(self, slot: int) -> None:
        """Release the slot's capacity: its node won't be created now. A kept share of the tenant stays for the slot's
        next node."""
        capacity = self._capacity.pop(slot, None)
        if capacity is not None:
            self._book.capacity_released(self.key, capacity)
            self._book.on_given_back(self.key, None)

    def launch_ended(self) -> None:
        """Report that fewer launches run, because others may wait for that."""
        self._book.on_given_back(self.key, None)

    def close(self) -> None:
        """Release all reservations of the request."""
        for slot in {*self._capacity, *self._share}:
            self.settle(slot)


class _Sums:
    """Sums of usages by key. A key with no usage left is removed, so that rounding errors don't add up."""

    def __init__(self) -> None:
        self._of: dict[object, tuple[int, Usage]] = {}

    def add(self, key: object, usage: Usage) -> None:
        count, total = self._of.get(key, (0, NOTHING))
        self._of[key] = (count + 1, total + usage)

    def subtract(self, key: object, usage: Usage) -> None:
        count, total = self._of[key]
        if count == 1:
            del self._of[key]
        else:
            self._of[key] = (count - 1, total - usage)

    def total(self, key: object) -> Usage:
        known = self._of.get(key)
        return NOTHING if known is None else known[1]

    def count(self, key: object) -> int:
        known = self._of.get(key)
        return 0 if known is None else known[0]


class Reservations:
    """All reservations of this process. *on_given_back*: called with the pool, and the tenant, that have more
    capacity."""

    def __init__(self, on_given_back: Callable[[PoolKey, str | None], None]) -> None:
        self.on_given_back = on_given_back
        self._capacity = _Sums()
        """Sums by pool key, and by provider name."""
        self._shares = _Sums()
        """Sums by tenant name."""

    def open(
        self, key: PoolKey, tenant: str | None, capacity: dict[int, Usage], share: dict[int, Usage]
    ) -> Reservation:
        """Reserve, by slot, capacity for nodes to be launched, and the tenant's *share* for all nodes."""
        reservation = Reservation(key, tenant, self)
        for slot, usage in capacity.items():
            reservation.add(slot, usage)
        for slot, usage in share.items() if tenant is not None else ():
            reservation.keep_share(slot, usage)
        return reservation

    def capacity_reserved(self, key: PoolKey, usage: Usage) -> None:
        self._capacity.add(key, usage)
        self._capacity.add(key[0], usage)

    def capacity_released(self, key: PoolKey, usage: Usage) -> None:
        self._capacity.subtract(key, usage)
        self._capacity.subtract(key[0], usage)

    def share_taken(self, tenant: str | None, usage: Usage) -> None:
        self._shares.add(tenant, usage)

    def share_given_back(self, tenant: str | None, usage: Usage) -> None:
        self._shares.subtract(tenant, usage)

    def launches_of(self, provider: str) -> int:
        """Return how many launches are reserved but have no record yet."""
        return self._capacity.count(provider)

    def of_provider(self, provider: str) -> Usage:
        return self._capacity.total(provider)

    def of_pool(self, key: PoolKey) -> Usage:
        return self._capacity.total(key)

    def of_tenant(self, tenant: str) -> Usage:
        return self._shares.total(tenant)
