"""The port to the cluster for a driver that is itself a client: it requests nodes of other providers and divides them
into slots.

Such a node is *leased*: until it is released, it stays in use by the driver's provider, in any launcher that serves
that provider. A *claim* is one of the driver's own nodes, and uses one slot of a leased node. All of this is in the
store, so that launchers that share a provider agree at any moment, and later launchers continue with the same state.
Each call is one transaction; if two launchers want the same slot, the store decides.

The driver decides which slot a claim gets, and when a node is requested and released.
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
    """The node's record; None if it was deleted, or the node is not in use by this provider any more."""
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
    """The leases of one provider, and the claims on their slots. Every call may raise StoreError."""

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
        """Stop new claims on the node."""

    async def release(self, backing: Backing) -> bool:
        """Return an empty node to its provider, as used. Return True if that was still possible."""

    async def forget(self, backing: Backing) -> bool:
        """Remove a lease whose node this provider has lost, with the claims on it. Return True if the node was lost."""

    async def adopt(self) -> None:
        """Lease the nodes that Nodepool's launcher left to this provider, according to their records and locks, and
        record the claims of nodes whose records name a slot."""


class Cluster(Protocol):
    """The cluster in which a driver's nodes are offered, seen by a client."""

    def leases(self, provider: str) -> AbstractAsyncContextManager[Leases]:
        """Open the leases of *provider*. Entering doesn't wait for `Leases.warm`. Raises: StoreError."""
