"""The port to the cluster for a driver that is itself a client of it: holds other providers' nodes and shares them out.

A node held in this way is *leased*: it stays in use by the driver's provider, in any launcher that serves that
provider, until it is released. A *claim* is one node of the driver's own, and uses one slot of a leased one. Everything
is in the store, so that launchers that share a provider, and later ones, agree at any moment. Each call is one
transaction, and if two launchers want the same slot, the store decides. What does *not* belong here: which slot a claim
gets, when a node is requested, and when one is released (the driver).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Claim, Lease, Node, NodeRequest


@dataclass(frozen=True, slots=True)
class Backing:
    """A leased node as of now."""

    lease: Lease
    node: Node | None
    """Its record; None if it is gone, or not in use by this provider any more."""
    taken: Mapping[int, NodeId]
    """The node that has each taken slot."""

    @property
    def id(self) -> NodeId:
        return self.lease.node_id

    @property
    def is_empty(self) -> bool:
        return not self.taken

    @property
    def free_slots(self) -> Sequence[int]:
        return [number for number in range(self.lease.slots) if number not in self.taken]


class Leases(Protocol):
    """What one provider leases, and the claims on the slots. Every call may raise StoreError."""

    async def warm(self) -> None:
        """Wait until the known leases and claims are complete and current."""

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* whenever a lease or claim may have changed. Return a function that ends that."""

    def now(self) -> float:
        """Return seconds since 1970, by the clock of the leases' times."""

    def backings(self) -> Sequence[Backing]:
        """Return the leased nodes, in the order of node ids."""

    def claims(self) -> Sequence[Claim]:
        """Return all claims, placed or not."""

    async def enter(self, claim: Claim) -> None:
        """Record a claim that has no slot yet; a recorded one stays as it is."""

    async def find(self, node_id: NodeId) -> Claim | None:
        """Return the claim of a node of this provider, as last seen; None only if it certainly has none."""

    async def place(self, claim: Claim, backing: Backing, slot: int) -> Claim | None:
        """Give *claim* a slot; None if it, the slot or the backing node has changed since it was seen."""

    async def free(self, node_id: NodeId) -> None:
        """Remove a claim, and release its slot if it has one. Without such a claim, do nothing."""

    async def obtain(
        self, backing_label: str, *, label: str, slots: int, progress: Callable[[NodeRequest], None]
    ) -> NodeId:
        """Request a node, wait for it, and lease it with *slots* slots for *label*.

        If cancelled, or on an error, it leaves no request behind, and no node without an owner. *progress* is called
        with every version of the request. Raises: RequestFailedError when every pool declined; StoreError.
        """

    async def fail(self, backing: Backing) -> None:
        """Let the node take no more claims."""

    async def release(self, backing: Backing) -> bool:
        """Return an empty node to its provider, as used. Return True if that was still possible."""

    async def forget(self, backing: Backing) -> bool:
        """Remove a lease, with the claims on it, whose node this provider has lost. Return True if that was so."""

    async def adopt(self) -> None:
        """Lease the nodes that are this provider's by their records and locks, and record the claims of nodes whose
        records name a slot: Nodepool's launcher left them."""


class Cluster(Protocol):
    """The cluster in which a driver's nodes are offered, seen by a client."""

    def leases(self, provider: str) -> AbstractAsyncContextManager[Leases]:
        """Open the leases of *provider*. Entering doesn't wait for `Leases.warm`. Raises: StoreError."""
