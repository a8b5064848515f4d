"""The table of leases of one provider, as last seen. cluster.py describes the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nodelaunch.engine.view import ClusterView, NodeRemoved, NodeSeen, ViewEvent, ViewSynced
from nodelaunch.errors import (
    NotEmptyError,
    RecordExistsError,
    RecordGoneError,
    RecordInvalidError,
    VersionConflictError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.cluster import Backing
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Claim, Lease, Node
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Entry, Op, Removed, Store, Tree, TreeEvent

log: Logger = get_logger(__name__)

_CHANGED = (NotEmptyError, RecordExistsError, RecordGoneError, VersionConflictError)
"""Errors of a transaction when a record differs from the one that was seen."""


class LeaseTable:
    """Reads leases, claims and taken slots from *tree*, and the leased nodes from *view*.

    Invariant: a lease is decoded once for each change of its entry. Unreadable entries are ignored.
    """

    def __init__(self, provider: str, view: ClusterView, tree: Tree) -> None:
        self.provider = provider
        self.owner: str = paths.backing_requestor(provider)
        """The requestor in the records and locks of leased nodes."""
        self._view = view
        self._tree = tree
        self._listeners: list[Callable[[], None]] = []
        self._decoded: dict[str, tuple[int, Lease | None]] = {}
        """Lease entries with the version at which they were decoded."""
        self._log = log.bind(provider=provider)

    async def synced(self) -> None:
        """Wait until table and view are complete and in sync."""
        while not (self._tree.is_synced and self._view.is_synced):
            await self._tree.synced()
            await self._view.synced()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* when a lease, a claim or a leased node changes, until the returned function is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_event(self, event: TreeEvent) -> None:
        """Process a change of the tree."""
        if isinstance(event, Removed):
            self._decoded.pop(event.entry.path, None)
        self._notify()

    def on_view_event(self, event: ViewEvent) -> None:
        """Process a change of the view."""
        match event:
            case NodeSeen(node_id, _) | NodeRemoved(node_id, _):
                if self._tree.get(paths.lease(self.provider, node_id)) is not None:
                    self._notify()
            case ViewSynced():
                self._notify()
            case _:
                pass

    def _notify(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def backings(self) -> Sequence[Backing]:
        """Return all readable leases with their nodes and taken slots, in the order of node ids."""
        found = (self._backing(NodeId(name)) for name in sorted(self._tree.children(paths.leases(self.provider))))
        return [backing for backing in found if backing is not None]

    def _backing(self, node_id: NodeId) -> Backing | None:
        entry = self._tree.get(paths.lease(self.provider, node_id))
        lease = self.lease(entry) if entry is not None else None
        if lease is None:
            return None
        seen = self._view.nodes.get(node_id)
        node = seen.record if seen is not None and self.is_ours(seen.record) else None
        return Backing(lease, node, self._taken(node_id))

    def lease(self, entry: Entry) -> Lease | None:
        """Return the lease in *entry*, or None if it is unreadable."""
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
        path = paths.lease(self.provider, node_id)
        slots = {name: self._tree.get(f"{path}/{name}") for name in self._tree.children(path)}
        return {int(n): NodeId(slot.data.decode()) for n, slot in slots.items() if slot is not None and n.isdecimal()}

    def entry(self, path: str) -> Entry | None:
        """Return the entry at *path* of the table, as last seen."""
        return self._tree.get(path)

    def is_ours(self, node: Node) -> bool:
        """Return True if the node is in use by this provider."""
        return node.state is NodeState.IN_USE and node.requestor == self.owner

    def claims(self) -> Sequence[Claim]:
        """Return all readable claims, in the order of node ids."""
        names = sorted(self._tree.children(paths.claims(self.provider)))
        entries = (self._tree.get(paths.claim(self.provider, NodeId(name))) for name in names)
        claims = (self.claim(entry) for entry in entries if entry is not None)
        return [claim for claim in claims if claim is not None]

    def claim(self, entry: Entry) -> Claim | None:
        """Return the claim in *entry*, or None if it is unreadable."""
        try:
            return Claim.from_bytes(entry.path, entry.data, node_id=NodeId(entry.path.rpartition("/")[2]))
        except RecordInvalidError as error:
            self._log.warning("record_unreadable", path=error.path, detail=error.detail)
            return None


async def try_commit(store: Store, ops: Sequence[Op]) -> bool:
    """Perform *ops*. Return False if a record differs from the one that was seen. Raises: StoreError."""
    try:
        await store.commit(ops)
    except _CHANGED:
        return False
    return True


async def contenders_of(store: Store, owner: str, node_id: NodeId) -> list[str]:
    """Return all contenders of *owner* for the node's lock, also those behind the first: a provider that leases a node
    is for a moment also behind itself. Raises: StoreError."""
    entries = await store.get_many(await store.contenders(paths.node_lock(node_id)))
    return [entry.path for entry in entries if entry is not None and entry.data == owner.encode()]


async def contender_of(store: Store, owner: str, node_id: NodeId) -> str | None:
    """Return the contender by which *owner* holds the node's lock, or None. Raises: StoreError."""
    first = (await store.contenders(paths.node_lock(node_id)))[:1]
    entry = (await store.get_many(first))[0] if first else None
    return entry.path if entry is not None and entry.data == owner.encode() else None
