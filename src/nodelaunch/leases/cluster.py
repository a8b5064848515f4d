"""Persistent leases of other providers' nodes, divided into slots: the port of `protocol/cluster.py` on the store.

``/nodelaunch/metastatic/<provider>`` has the table::

    backing/<node id>           one leased node: label, slots, failed, when taken over and last used
    backing/<node id>/<slot>    exists while the slot is taken
    nodes/<node id>             one claim of a node of this provider: its metadata, and its slot

Creating a slot's znode takes the slot, so only one launcher can succeed. Deleting the znode of a leased node releases
the node, which fails while a slot below it is taken. Each step is one transaction, including the changes to the node's
record and lock. drivers/metastatic decides. Source of the nodes' records: Nodepool 11, metastatic driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from nodelaunch.client.nodes import NodeClient
from nodelaunch.clock import Clock
from nodelaunch.engine.view import ClusterView, NodeRemoved, NodeSeen, ViewSynced
from nodelaunch.errors import (
    RecordExistsError,
    RequestFailedError,
    StoreError,
)
from nodelaunch.leases.adoption import LeaseAdoption
from nodelaunch.leases.table import LeaseTable, contender_of, contenders_of, try_commit
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.cluster import Backing, Leases
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Claim, Lease, Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.store import CheckVersion, Create, Delete, Op, Put, Store

log: Logger = get_logger(__name__)


class StoreCluster:
    """The port's cluster for the launcher that has *store* and *view*."""

    def __init__(self, store: Store, view: ClusterView, clock: Clock) -> None:
        self._store = store
        self._view = view
        self._clock = clock

    def leases(self, provider: str) -> AbstractAsyncContextManager[Leases]:
        return self._leases(provider)

    @asynccontextmanager
    async def _leases(self, provider: str) -> AsyncIterator[Leases]:
        await self._store.ensure(paths.leases(provider), paths.claims(provider))
        client = NodeClient(self._store, requestor=paths.backing_requestor(provider), clock=self._clock)
        async with client, self._store.tree(paths.metastatic(provider)) as tree:
            table = LeaseTable(provider, self._view, tree)
            stop = (
                self._view.subscribe(table.on_view_event, NodeSeen, NodeRemoved, ViewSynced),
                tree.subscribe(table.on_event),
            )
            try:
                yield StoreLeases(table, self._store, self._view, client, self._clock)
            finally:
                for each in stop:
                    each()


class StoreLeases:
    """The port's leases of one provider. Open with `StoreCluster.leases`."""

    def __init__(self, table: LeaseTable, store: Store, view: ClusterView, client: NodeClient, clock: Clock) -> None:
        self._provider = table.provider
        self._owner = table.owner
        self._store = store
        self._view = view
        self._client = client
        self._clock = clock
        self._table = table
        self._log = log.bind(provider=table.provider)

    # -- reading ----------------------------------------------------------------------------------------------------

    async def warm(self) -> None:
        await self._table.synced()

    def now(self) -> float:
        return self._clock.now()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        return self._table.subscribe(listener)

    def backings(self) -> Sequence[Backing]:
        return self._table.backings()

    def claims(self) -> Sequence[Claim]:
        return self._table.claims()

    # -- claims -----------------------------------------------------------------------------------------------------

    async def enter(self, claim: Claim) -> None:
        with suppress(RecordExistsError):
            await self._store.create(paths.claim(self._provider, claim.node_id), claim.to_bytes())

    async def find(self, node_id: NodeId) -> Claim | None:
        path = paths.claim(self._provider, node_id)
        entry = self._table.entry(path) or (await self._store.get_many([path]))[0]
        return self._table.claim(entry) if entry is not None else None

    async def place(self, claim: Claim, backing: Backing, slot: int) -> Claim | None:
        path = paths.claim(self._provider, claim.node_id)
        entry, seen = self._table.entry(path), self._view.nodes.get(backing.id)
        if entry is None or self._table.claim(entry) != claim or seen is None or not self._table.is_ours(seen.record):
            return None
        placed = claim.changed(backing=backing.id, slot=slot)
        ops: list[Op] = [
            CheckVersion(seen.path, seen.version),
            Create(paths.slot(self._provider, backing.id, slot), claim.node_id.encode()),
            Put(path, placed.to_bytes(), entry.stat.version),
        ]
        return placed if await try_commit(self._store, ops) else None

    async def free(self, node_id: NodeId) -> None:
        path = paths.claim(self._provider, node_id)
        while True:
            (entry,) = await self._store.get_many([path])
            if entry is None:
                return
            claim = self._table.claim(entry)
            ops: list[Op] = [Delete(path, entry.stat.version)]
            if claim is not None and claim.backing is not None and claim.slot is not None:
                ops += await self._freeing(node_id, claim.backing, claim.slot)
            if await try_commit(self._store, ops):
                return

    async def _freeing(self, node_id: NodeId, backing: NodeId, number: int) -> list[Op]:
        """Return the operations that free a slot if *node_id* has it."""
        slot_path, lease_path = paths.slot(self._provider, backing, number), paths.lease(self._provider, backing)
        slot, entry = await self._store.get_many([slot_path, lease_path])
        if slot is None or entry is None or slot.data != node_id.encode():
            return []
        ops: list[Op] = [Delete(slot_path, slot.stat.version)]
        lease = self._table.lease(entry)
        if lease is not None:
            used = lease.changed(used_at=self._clock.now())
            ops.append(Put(lease_path, used.to_bytes(), entry.stat.version))
        return ops

    # -- leases -----------------------------------------------------------------------------------------------------

    async def obtain(
        self, backing_label: str, *, label: str, slots: int, progress: Callable[[NodeRequest], None]
    ) -> NodeId:
        handle = await self._client.submit([backing_label], priority=paths.BACKING_PRIORITY)
        self._log.info("backing_requested", label=label, backing_label=backing_label, request_id=handle.id)
        try:
            request = await handle.finished(progress)
            if request.state is RequestState.FAILED:
                raise RequestFailedError(request.id, request.declined_by)
            now = self._clock.now()
            lease = Lease(node_id=request.nodes[0], label=label, slots=slots, launched_at=now, used_at=now)
            entry = Create(paths.lease(self._provider, lease.node_id), lease.to_bytes())
            await self._client.keep(request, user_data=lease.user_data(self._owner), also=[entry])
        finally:
            with suppress(StoreError):
                await handle.cancel()
        self._log.info("backing_leased", label=label, node_id=lease.node_id, slots=slots)
        return lease.node_id

    async def fail(self, backing: Backing) -> None:
        path = paths.lease(self._provider, backing.id)
        while True:
            entry, node = await self._store.get_many([path, paths.node(backing.id)])
            lease = self._table.lease(entry) if entry is not None else None
            if entry is None or lease is None or lease.is_failed:
                return
            failed = lease.changed(is_failed=True)
            ops: list[Op] = [Put(path, failed.to_bytes(), entry.stat.version)]
            contender = await contender_of(self._store, self._owner, backing.id)
            if node is not None and contender is not None:
                record = Node.from_bytes(node.path, node.data, node_id=backing.id)
                record = record.changed(user_data=failed.user_data(self._owner))
                ops += [CheckVersion(contender), Put(node.path, record.to_bytes(), node.stat.version)]
            if await try_commit(self._store, ops):
                return

    async def release(self, backing: Backing) -> bool:
        path = paths.lease(self._provider, backing.id)
        entry, seen = self._table.entry(path), self._view.nodes.get(backing.id)
        contender = await contender_of(self._store, self._owner, backing.id)
        if entry is None or seen is None or contender is None or not self._table.is_ours(seen.record):
            return False
        used = seen.record.into(NodeState.USED, self._clock.now())
        ops: list[Op] = [
            Delete(path, entry.stat.version),
            Put(seen.path, used.to_bytes(), seen.version),
            Delete(contender),
        ]
        return await try_commit(self._store, ops)

    async def forget(self, backing: Backing) -> bool:
        path = paths.lease(self._provider, backing.id)
        (node,) = await self._store.get_many([paths.node(backing.id)])
        contenders = await contenders_of(self._store, self._owner, backing.id)
        ops: list[Op] = []
        if node is not None:
            record = Node.from_bytes(node.path, node.data, node_id=backing.id)
            if self._table.is_ours(record) and contenders:
                return False
            ops.append(CheckVersion(node.path, node.stat.version))
            ops += [Delete(contender) for contender in contenders]
        for number, node_id in backing.taken.items():
            ops.append(Delete(paths.slot(self._provider, backing.id, number)))
            claim = self._table.entry(paths.claim(self._provider, node_id))
            ops += [Delete(claim.path)] if claim is not None else []
        return await try_commit(self._store, [*ops, Delete(path)])

    async def adopt(self) -> None:
        await LeaseAdoption(self._table, self._store, self._view).run()
