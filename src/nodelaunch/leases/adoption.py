"""Adopts leases of Nodepool's launcher, which records them in nodes only, into the table of leases.

Source: Nodepool 11, metastatic driver.
"""

from __future__ import annotations

from nodelaunch.engine.view import ClusterView, Versioned
from nodelaunch.leases.table import LeaseTable, contender_of, try_commit
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Claim, Lease, Node
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import CheckVersion, Create, Op, Store

log: Logger = get_logger(__name__)

IN_SOMEBODYS_HANDS = frozenset({NodeState.READY, NodeState.IN_USE, NodeState.HOLD})
"""States in which a node of this provider has its slot. In other states the slot may already be free."""


class LeaseAdoption:
    """Adopts backing nodes of this provider, by records and locks, and the claims of the nodes on their slots.

    Invariant: existing entries of the table stay unchanged.
    """

    def __init__(self, table: LeaseTable, store: Store, view: ClusterView) -> None:
        self._table = table
        self._store = store
        self._view = view
        self._log = log.bind(provider=table.provider)

    async def run(self) -> None:
        """Adopt all present leases and claims. Raises: StoreError."""
        for seen in list(self._view.nodes.values()):
            lease = Lease.from_user_data(seen.record, self._table.owner)
            known = self._table.entry(paths.lease(self._table.provider, seen.record.id))
            if lease is not None and known is None and seen.record.state is NodeState.IN_USE:
                await self._adopt_node(seen, lease)
        for seen in self._view.nodes_of(self._table.provider):
            claim = Claim.from_node(seen.record)
            known = self._table.entry(paths.claim(self._table.provider, seen.record.id))
            if claim is not None and known is None and seen.record.state in IN_SOMEBODYS_HANDS:
                await self._adopt_claim(seen, claim)

    async def _adopt_claim(self, seen: Versioned[Node], claim: Claim) -> None:
        """Adopt a node that Nodepool's launcher placed on a leased node."""
        if claim.backing is None or claim.slot is None:
            return
        if self._table.entry(paths.lease(self._table.provider, claim.backing)) is None:
            return
        ops: list[Op] = [CheckVersion(seen.path, seen.version), *self._as_taken(claim, claim.backing, claim.slot)]
        if await try_commit(self._store, ops):
            self._log.info("slot_adopted", node_id=claim.node_id, backing=claim.backing, slot=claim.slot)

    def _as_taken(self, claim: Claim, backing: NodeId, slot: int) -> list[Op]:
        return [
            Create(paths.slot(self._table.provider, backing, slot), claim.node_id.encode()),
            Create(paths.claim(self._table.provider, claim.node_id), claim.to_bytes()),
        ]

    async def _adopt_node(self, seen: Versioned[Node], lease: Lease) -> None:
        contender = await contender_of(self._store, self._table.owner, lease.node_id)
        if contender is None:
            return
        ops: list[Op] = [
            CheckVersion(seen.path, seen.version),
            CheckVersion(contender),
            Create(paths.lease(self._table.provider, lease.node_id), lease.to_bytes()),
        ]
        claims = self._claims_on(lease)
        for number, claim in claims.items():
            ops += self._as_taken(claim, lease.node_id, number)
        if await try_commit(self._store, ops):
            self._log.info("backing_adopted", node_id=lease.node_id, label=lease.label, taken=sorted(claims))

    def _claims_on(self, lease: Lease) -> dict[int, Claim]:
        """Return the claims by slot from the records of this provider's nodes; the oldest if several name one slot."""
        found: dict[int, Claim] = {}
        for seen in sorted(self._view.nodes_of(self._table.provider), key=lambda seen: seen.record.id):
            claim = Claim.from_node(seen.record)
            if claim is not None and claim.slot is not None and claim.backing == lease.node_id:
                found.setdefault(claim.slot, claim)
        return found
