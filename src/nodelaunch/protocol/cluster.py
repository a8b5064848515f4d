"""The port to the cluster for a driver that is itself a client of it: holds other providers' nodes and shares them out.

A node so held is *leased*: it stays in use by the driver's provider, whichever launcher serves that, until it is let
go. A *claim* is one node of the driver's own, and takes one slot of a leased one. Everything stands in the store, so
that launchers that share a provider, and those that come after, agree at any moment; each call is one transaction, and
where two want the same the store decides.
What does *not* belong here: which slot a claim gets, when a node is asked for, and when one is let go (the driver).
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
    """Its record; None when it is gone, or not in use by us any more."""
    taken: Mapping[int, NodeId]
    """Whose each taken slot is."""

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
    """What one provider leases, and whose the slots are. Every call may raise StoreError."""

    async def warm(self) -> None:
        """Wait until what is known is complete and current."""

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* whenever anything known here may have changed; the result ends that."""

    def now(self) -> float:
        """Seconds since 1970, by the clock that leases' times are told by."""

    def backings(self) -> Sequence[Backing]:
        """What is leased, in the order of node ids."""

    def claims(self) -> Sequence[Claim]:
        """All claims, placed or not."""

    async def enter(self, claim: Claim) -> None:
        """Note a claim that has no slot yet; one that is noted already stays as it is."""

    async def find(self, node_id: NodeId) -> Claim | None:
        """The claim of a node of ours, as last seen; None only when there is none for certain."""

    async def place(self, claim: Claim, backing: Backing, slot: int) -> Claim | None:
        """Give *claim* a slot; None when it, the slot or the backing node is not as it was seen."""

    async def free(self, node_id: NodeId) -> None:
        """Take back a claim, and its slot if it has one. One that does not exist is taken back."""

    async def obtain(
        self, backing_label: str, *, label: str, slots: int, progress: Callable[[NodeRequest], None]
    ) -> NodeId:
        """Ask for a node, wait for it, and lease it with *slots* slots for *label*.

        Cancelled, or failing, it leaves no request behind, and no node that is nobody's. *progress* is told of the
        request's every version. Raises: RequestFailedError when every pool declined; StoreError.
        """

    async def fail(self, backing: Backing) -> None:
        """Let the node take nobody in any more."""

    async def release(self, backing: Backing) -> bool:
        """Give an empty node back, used; whether that was still possible."""

    async def forget(self, backing: Backing) -> bool:
        """Drop a lease, with the claims on it, whose node is not ours any more; whether it was so indeed."""

    async def adopt(self) -> None:
        """Lease nodes that are ours by what their records and locks say, and note whose records say that they have a
        slot: Nodepool's launcher left them."""


class Cluster(Protocol):
    """Where a driver's nodes are offered, seen by a client."""

    def leases(self, provider: str) -> AbstractAsyncContextManager[Leases]:
        """Open what *provider* leases. Entering doesn't wait for `Leases.warm`. Raises: StoreError."""
