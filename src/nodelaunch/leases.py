"""Other providers' nodes, leased for good and shared out by slots: the port of `protocol/cluster.py` on the store.

``/nodelaunch/metastatic/<provider>`` has the table::

    backing/<node id>           one leased node: label, slots, failed, when taken over and last used
    backing/<node id>/<slot>    there while the slot is taken
    nodes/<node id>             one claim of a node of our own: its metadata, and the slot it has

A slot is taken by creating its znode, which only one can; a leased node is let go by deleting its own, which nobody
can while a slot below it is taken. Each step is one transaction with what it means for the node's record and lock.
What does *not* belong here: decisions.  Source of what is on the nodes themselves: Nodepool 11, metastatic driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import structlog

from nodelaunch.client import NodeClient
from nodelaunch.clock import Clock
from nodelaunch.engine.view import ClusterView, NodeRemoved, NodeSeen, Note, Seen, ViewWarmed
from nodelaunch.errors import (
    NotEmptyError,
    RecordExistsError,
    RecordGoneError,
    RecordInvalidError,
    RequestFailedError,
    StoreError,
    VersionConflictError,
)
from nodelaunch.protocol import paths
from nodelaunch.protocol.cluster import Backing, Leases
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Claim, Lease, Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.store import Check, Create, Delete, Entry, Op, Put, Removed, Store, Tree, TreeEvent

log = structlog.get_logger(__name__)

IN_SOMEBODYS_HANDS = frozenset({NodeState.READY, NodeState.IN_USE, NodeState.HOLD})
"""A node of ours in one of these has its slot; in others the slot may be free already."""

_CHANGED = (NotEmptyError, RecordExistsError, RecordGoneError, VersionConflictError)
"""What a transaction fails with when something is not as it was seen."""


class StoreCluster:
    """The port's cluster, seen by the launcher whose *store* and *view* these are."""

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
            leases = StoreLeases(provider, self._store, self._view, tree, client, self._clock)
            stop = (
                self._view.subscribe(leases.on_note, NodeSeen, NodeRemoved, ViewWarmed),
                tree.subscribe(leases.on_event),
            )
            try:
                yield leases
            finally:
                for each in stop:
                    each()


class StoreLeases:
    """The port's leases of one provider. Open with `StoreCluster.leases`."""

    def __init__(
        self, provider: str, store: Store, view: ClusterView, tree: Tree, client: NodeClient, clock: Clock
    ) -> None:
        self._provider = provider
        self._owner = paths.backing_requestor(provider)
        self._store = store
        self._view = view
        self._tree = tree
        self._client = client
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []
        self._decoded: dict[str, tuple[int, Lease | None]] = {}
        """Lease entries, as of the change they were decoded at."""
        self._log = log.bind(provider=provider)

    # -- knowing ----------------------------------------------------------------------------------------------------

    async def warm(self) -> None:
        while not (self._tree.is_warm and self._view.is_warm):
            await self._tree.warm()
            await self._view.warm()

    def now(self) -> float:
        return self._clock.now()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_event(self, event: TreeEvent) -> None:
        if isinstance(event, Removed):
            self._decoded.pop(event.entry.path, None)
        self._tell()

    def on_note(self, note: Note) -> None:
        match note:
            case NodeSeen(node_id, _) | NodeRemoved(node_id, _):
                if self._tree.get(paths.lease(self._provider, node_id)) is not None:
                    self._tell()
            case ViewWarmed():
                self._tell()
            case _:
                pass

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def backings(self) -> Sequence[Backing]:
        found = (self._backing(NodeId(name)) for name in sorted(self._tree.children(paths.leases(self._provider))))
        return [backing for backing in found if backing is not None]

    def _backing(self, node_id: NodeId) -> Backing | None:
        entry = self._tree.get(paths.lease(self._provider, node_id))
        lease = self._lease(entry) if entry is not None else None
        if lease is None:
            return None
        seen = self._view.nodes.get(node_id)
        node = seen.record if seen is not None and self._is_ours(seen.record) else None
        return Backing(lease, node, self._taken(node_id))

    def _lease(self, entry: Entry) -> Lease | None:
        known = self._decoded.get(entry.path)
        if known is None or known[0] != entry.stat.modified_zxid:
            known = self._decoded[entry.path] = (entry.stat.modified_zxid, self._decode_lease(entry))
        return known[1]

    def _decode_lease(self, entry: Entry) -> Lease | None:
        try:
            return Lease.from_bytes(entry.path, entry.data, node_id=NodeId(entry.path.rpartition("/")[2]))
        except RecordInvalidError as error:
            self._log.warning("record_unreadable", path=error.path, detail=error.detail)
            return None

    def _taken(self, node_id: NodeId) -> dict[int, NodeId]:
        path = paths.lease(self._provider, node_id)
        slots = {name: self._tree.get(f"{path}/{name}") for name in self._tree.children(path)}
        return {int(n): NodeId(slot.data.decode()) for n, slot in slots.items() if slot is not None and n.isdecimal()}

    def _is_ours(self, node: Node) -> bool:
        return node.state is NodeState.IN_USE and node.requestor == self._owner

    def claims(self) -> Sequence[Claim]:
        names = sorted(self._tree.children(paths.claims(self._provider)))
        entries = (self._tree.get(paths.claim(self._provider, NodeId(name))) for name in names)
        claims = (self._claim(entry) for entry in entries if entry is not None)
        return [claim for claim in claims if claim is not None]

    def _claim(self, entry: Entry) -> Claim | None:
        try:
            return Claim.from_bytes(entry.path, entry.data, node_id=NodeId(entry.path.rpartition("/")[2]))
        except RecordInvalidError as error:
            self._log.warning("record_unreadable", path=error.path, detail=error.detail)
            return None

    # -- claims -----------------------------------------------------------------------------------------------------

    async def enter(self, claim: Claim) -> None:
        with suppress(RecordExistsError):
            await self._store.create(paths.claim(self._provider, claim.node_id), claim.to_bytes())

    async def find(self, node_id: NodeId) -> Claim | None:
        path = paths.claim(self._provider, node_id)
        entry = self._tree.get(path) or (await self._store.get_many([path]))[0]
        return self._claim(entry) if entry is not None else None

    async def place(self, claim: Claim, backing: Backing, slot: int) -> Claim | None:
        path = paths.claim(self._provider, claim.node_id)
        entry, seen = self._tree.get(path), self._view.nodes.get(backing.id)
        if entry is None or self._claim(entry) != claim or seen is None or not self._is_ours(seen.record):
            return None
        placed = claim.changed(backing=backing.id, slot=slot)
        ops: list[Op] = [
            Check(seen.path, seen.version),
            Create(paths.slot(self._provider, backing.id, slot), claim.node_id.encode()),
            Put(path, placed.to_bytes(), entry.stat.version),
        ]
        return placed if await self._done(ops) else None

    async def free(self, node_id: NodeId) -> None:
        path = paths.claim(self._provider, node_id)
        while True:
            (entry,) = await self._store.get_many([path])
            if entry is None:
                return
            claim = self._claim(entry)
            ops: list[Op] = [Delete(path, entry.stat.version)]
            if claim is not None and claim.backing is not None and claim.slot is not None:
                ops += await self._freeing(node_id, claim.backing, claim.slot)
            if await self._done(ops):
                return

    async def _freeing(self, node_id: NodeId, backing: NodeId, number: int) -> list[Op]:
        """What gives a slot back, if it is *node_id*'s."""
        slot_path, lease_path = paths.slot(self._provider, backing, number), paths.lease(self._provider, backing)
        slot, entry = await self._store.get_many([slot_path, lease_path])
        if slot is None or entry is None or slot.data != node_id.encode():
            return []
        ops: list[Op] = [Delete(slot_path, slot.stat.version)]
        lease = self._lease(entry)
        if lease is not None:
            used = lease.changed(used_at=self._clock.now())
            ops.append(Put(lease_path, used.to_bytes(), entry.stat.version))
        return ops

    async def _done(self, ops: Sequence[Op]) -> bool:
        """Perform *ops*; False when something was not as it was seen."""
        try:
            await self._store.commit(ops)
        except _CHANGED:
            return False
        return True

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
            lease = self._lease(entry) if entry is not None else None
            if entry is None or lease is None or lease.is_failed:
                return
            failed = lease.changed(is_failed=True)
            ops: list[Op] = [Put(path, failed.to_bytes(), entry.stat.version)]
            contender = await self._contender(backing.id)
            if node is not None and contender is not None:
                record = Node.from_bytes(node.path, node.data, node_id=backing.id)
                record = record.changed(user_data=failed.user_data(self._owner))
                ops += [Check(contender), Put(node.path, record.to_bytes(), node.stat.version)]
            if await self._done(ops):
                return

    async def _contender(self, backing: NodeId) -> str | None:
        """The contender by which the node's lock is ours; None when it is not."""
        first = (await self._store.contenders(paths.node_lock(backing)))[:1]
        entry = (await self._store.get_many(first))[0] if first else None
        return entry.path if entry is not None and entry.data == self._owner.encode() else None

    async def release(self, backing: Backing) -> bool:
        path = paths.lease(self._provider, backing.id)
        entry, seen = self._tree.get(path), self._view.nodes.get(backing.id)
        contender = await self._contender(backing.id)
        if entry is None or seen is None or contender is None or not self._is_ours(seen.record):
            return False
        used = seen.record.into(NodeState.USED, self._clock.now())
        ops: list[Op] = [
            Delete(path, entry.stat.version),
            Put(seen.path, used.to_bytes(), seen.version),
            Delete(contender),
        ]
        return await self._done(ops)

    async def forget(self, backing: Backing) -> bool:
        path = paths.lease(self._provider, backing.id)
        (node,) = await self._store.get_many([paths.node(backing.id)])
        contender = await self._contender(backing.id)
        ops: list[Op] = []
        if node is not None:
            record = Node.from_bytes(node.path, node.data, node_id=backing.id)
            if self._is_ours(record) and contender is not None:
                return False
            ops.append(Check(node.path, node.stat.version))
            ops += [Delete(contender)] if contender is not None else []
        for number, node_id in backing.taken.items():
            ops.append(Delete(paths.slot(self._provider, backing.id, number)))
            claim = self._tree.get(paths.claim(self._provider, node_id))
            ops += [Delete(claim.path)] if claim is not None else []
        return await self._done([*ops, Delete(path)])

    # -- what Nodepool left -----------------------------------------------------------------------------------------

    async def adopt(self) -> None:
        for seen in list(self._view.nodes.values()):
            lease = Lease.from_user_data(seen.record, self._owner)
            known = self._tree.get(paths.lease(self._provider, seen.record.id))
            if lease is not None and known is None and seen.record.state is NodeState.IN_USE:
                await self._adopt_node(seen, lease)
        for seen in self._view.nodes_of(self._provider):
            claim = Claim.from_node(seen.record)
            known = self._tree.get(paths.claim(self._provider, seen.record.id))
            if claim is not None and known is None and seen.record.state in IN_SOMEBODYS_HANDS:
                await self._adopt_claim(seen, claim)

    async def _adopt_claim(self, seen: Seen[Node], claim: Claim) -> None:
        """Take in a node that Nodepool's launcher put on a node that was leased already."""
        if claim.backing is None or claim.slot is None:
            return
        if self._tree.get(paths.lease(self._provider, claim.backing)) is None:
            return
        ops: list[Op] = [Check(seen.path, seen.version), *self._as_taken(claim, claim.backing, claim.slot)]
        if await self._done(ops):
            self._log.info("slot_adopted", node_id=claim.node_id, backing=claim.backing, slot=claim.slot)

    def _as_taken(self, claim: Claim, backing: NodeId, slot: int) -> list[Op]:
        return [
            Create(paths.slot(self._provider, backing, slot), claim.node_id.encode()),
            Create(paths.claim(self._provider, claim.node_id), claim.to_bytes()),
        ]

    async def _adopt_node(self, seen: Seen[Node], lease: Lease) -> None:
        contender = await self._contender(lease.node_id)
        if contender is None:
            return
        ops: list[Op] = [
            Check(seen.path, seen.version),
            Check(contender),
            Create(paths.lease(self._provider, lease.node_id), lease.to_bytes()),
        ]
        claims = self._claims_on(lease)
        for number, claim in claims.items():
            ops += self._as_taken(claim, lease.node_id, number)
        if await self._done(ops):
            self._log.info("backing_adopted", node_id=lease.node_id, label=lease.label, taken=sorted(claims))

    def _claims_on(self, lease: Lease) -> dict[int, Claim]:
        """Who has which slot of the node, by what the records of our own nodes say; the oldest where several do."""
        found: dict[int, Claim] = {}
        for seen in sorted(self._view.nodes_of(self._provider), key=lambda seen: seen.record.id):
            claim = Claim.from_node(seen.record)
            if claim is not None and claim.slot is not None and claim.backing == lease.node_id:
                found.setdefault(claim.slot, claim)
        return found
