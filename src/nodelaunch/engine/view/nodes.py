"""The view of nodes: records, locks, and indexes by provider, request, pool and label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from nodelaunch.engine.view.events import (
    IdleNodeGone,
    IdleNodeSeen,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    Notifier,
    Versioned,
)
from nodelaunch.engine.view.instances import InstanceIndex
from nodelaunch.engine.view.sums import AllowedOn, IdleIndex, NodeSums
from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol import paths
from nodelaunch.protocol.access import Asker
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Entry

K = TypeVar("K")

_BELOW = len(paths.NODES) + 1
_NO_NODES: Mapping[NodeId, Versioned[Node]] = {}
_BEING_MADE = frozenset({NodeState.INIT, NodeState.BUILDING})


class NodeView(Notifier):
    """The part of the view about nodes.

    Invariants: every index lists exactly the nodes of ``nodes`` that belong in it, in their present version; a removed
    node is in none of them, nor in ``discarded`` or ``interrupted``; no container of an index is empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[NodeId, Versioned[Node]] = {}
        self.discarded: set[NodeId] = set()
        """Existing nodes that this process has marked for deletion."""
        self.interrupted: dict[NodeId, int] = {}
        """Nodes whose launch was interrupted when their launcher died, by their version since then. The next launcher
        to take their request resumes the launch. A node that changes is removed from here."""
        self._of_provider: dict[str | None, dict[NodeId, Versioned[Node]]] = {}
        self._of_request: dict[RequestId, dict[NodeId, Versioned[Node]]] = {}
        self._being_made: dict[str | None, dict[NodeId, Versioned[Node]]] = {}
        """Nodes in state init or building, by provider."""
        self._node_contenders: dict[NodeId, dict[str, bool]] = {}
        """Paths of the contenders for a node's lock, and True for those of this process."""
        self._instances = InstanceIndex()
        self._sums = NodeSums()
        self.idle: IdleIndex = IdleIndex()
        """Idle nodes. Other modules may hide and show nodes in it, and read it only through this class."""

    # -- reading ----------------------------------------------------------------------------------------------------

    def node(self, node_id: str) -> Node | None:
        seen = self.nodes.get(NodeId(node_id))
        return seen.record if seen is not None else None

    def nodes_of(self, provider: str | None) -> list[Versioned[Node]]:
        """Return the nodes of *provider*, or without a provider for None, in the order in which they were first
        seen."""
        return list(self._of_provider.get(provider, _NO_NODES).values())

    def nodes_allocated_to(self, request_id: RequestId) -> list[Versioned[Node]]:
        """Return the nodes of the request, in the order in which they were allocated."""
        nodes = self._of_request.get(request_id)
        return list(nodes.values()) if nodes is not None else []

    def idle_nodes(self, provider: str, pool: str, label: str | None = None) -> Sequence[Versioned[Node]]:
        """Return the ready, unallocated nodes of a pool, only with *label* if given; the longest ready first.

        The sequence is the live one: take a copy before awaiting, or before changing anything. A node among them may be
        locked.
        """
        return self.idle.of(provider, pool, label)

    def idle_nodes_for(self, provider: str, pool: str, label: str, asker: Asker) -> Sequence[Sequence[Versioned[Node]]]:
        """Return the nodes with *label* that the *asker* may have, as `idle_nodes` does: one or two sequences, each in
        order, no node in both."""
        if asker.is_launcher:
            return (self.idle.of(provider, pool, label),)
        return self.idle.of_tenant(provider, pool, label, asker.tenant)

    def split_idle(self, provider: str, pool: str, allowed_on: AllowedOn | None) -> None:
        """Split the idle nodes of the pool by who may use them, from now on; None: every tenant may use all."""
        self.idle.split(provider, pool, allowed_on)

    @property
    def idle_by_label(self) -> Mapping[str, int]:
        """Number of idle nodes of each label, over all providers; live."""
        return self.idle.by_label

    def interrupted_nodes(self) -> list[Node]:
        """Return the nodes whose launch was interrupted and not resumed."""
        if not self.interrupted:
            return []
        return [self.nodes[node_id].record for node_id in self.interrupted if node_id in self.nodes]

    def interrupted_for(self, request_id: RequestId) -> list[Versioned[Node]]:
        """Return the nodes of a request whose launch was interrupted."""
        if not self.interrupted:
            return []
        nodes = self._of_request.get(request_id, _NO_NODES)
        return [seen for node_id, seen in nodes.items() if node_id in self.interrupted]

    def launching(self, provider: str) -> list[Node]:
        """Return the nodes of *provider* that any launcher is launching."""
        made = self._being_made.get(provider)
        if made is None:
            return []
        return [
            seen.record
            for node_id, seen in made.items()
            if seen.record.state is NodeState.INIT or node_id in self._node_contenders
        ]

    def is_interrupted(self, seen: Versioned[Node]) -> bool:
        return self.interrupted.get(seen.record.id) == seen.version

    def nodes_with(self, provider: str, external_id: str) -> tuple[NodeId, ...]:
        """Return the nodes of *provider* that are recorded for one of its instances."""
        return self._instances.of(provider, external_id)

    def is_node_locked(self, node_id: NodeId) -> bool:
        """Return True if the node's lock has a contender."""
        return node_id in self._node_contenders

    def used(self, provider: str, pool: str | None = None) -> Usage:
        """Return the usage of all recorded nodes of a provider, or of one of its pools, in any state."""
        return self._sums.of_provider.of(provider) if pool is None else self._sums.of_pool.of((provider, pool))

    def used_by_tenant(self, tenant: str) -> Usage:
        """Return the usage of a tenant's nodes; idle nodes count for no tenant."""
        return self._sums.of_tenant.of(tenant)

    def leaving(self, provider: str, pool: str) -> Usage:
        """Return the usage of a pool's nodes that are soon deleted: used, failed, aborted, deleting or deleted ones."""
        return self._sums.leaving.of((provider, pool))

    def may_lag(self, path: str) -> bool:
        """Return True if a change of the node record at *path* may be reported late: another process has its lock, and
        only its state at the unlock matters.

        A contender counts as this process's if its owner is known: a tree over ZooKeeper does not read the contenders
        of others.
        """
        contenders = self._node_contenders.get(NodeId(path[_BELOW:]))
        return contenders is not None and True not in contenders.values()

    # -- input from the trees ---------------------------------------------------------------------------------------

    def node_entry_changed(self, entry: Entry) -> None:
        """Handle an entry below `paths.NODES` that is new or has changed."""
        name = entry.path[_BELOW:]
        if "/" in name:
            self._contender_came(name, entry)
            return
        node_id = NodeId(name)
        if self.unreadable:
            self._mark_readable(entry.path)
        try:
            record = self._decode_node(node_id, entry)
        except RecordInvalidError as error:
            self._mark_unreadable(entry, error)
            self._node_gone(node_id)
            return
        old = self.nodes.get(node_id)
        seen = self.nodes[node_id] = Versioned(record, entry)
        before = old.record if old is not None else None
        self._index(before, seen)
        self._instances.change(before, record)
        self._sums.change(before, record)
        if self.interrupted and self.interrupted.get(node_id, seen.version) != seen.version:
            del self.interrupted[node_id]
        if not self.is_synced:
            return
        self._notify_of_node(
            NodeSeen(node_id, before), record.provider, before.provider if before is not None else None
        )
        if record.state is NodeState.READY and not record.allocated_to:
            self._notify(IdleNodeSeen(node_id))
        elif before is not None and before.state is NodeState.READY and not before.allocated_to:
            self._notify(IdleNodeGone(node_id, before))

    def node_entry_removed(self, path: str) -> None:
        """Handle the removal of an entry below `paths.NODES`."""
        name = path[_BELOW:]
        if "/" in name:
            self._contender_left(name, path)
        else:
            self._mark_readable(path)
            self._node_gone(NodeId(name))

    @staticmethod
    def _decode_node(node_id: NodeId, entry: Entry) -> Node:
        """Return the node in *entry*, without decoding if this process wrote it. Raises: RecordInvalidError."""
        record = entry.record
        if isinstance(record, Node):
            return record if record.id == node_id else record.changed(id=node_id)
        return Node.from_bytes(entry.path, entry.data, node_id=node_id, modified_at=entry.stat.modified_at)

    def _node_gone(self, node_id: NodeId) -> None:
        self.discarded.discard(node_id)
        self.interrupted.pop(node_id, None)
        old = self.nodes.pop(node_id, None)
        if old is None:
            return
        record = old.record
        _drop(self._of_provider, record.provider, node_id)
        if record.allocated_to:
            _drop(self._of_request, record.allocated_to, node_id)
        if record.state in _BEING_MADE:
            _drop(self._being_made, record.provider, node_id)
        is_idle = record.state is NodeState.READY and not record.allocated_to
        if is_idle:
            self.idle.remove(record)
        self._instances.change(record, None)
        self._sums.change(record, None)
        self._notify_of_node(NodeRemoved(node_id, record), record.provider, None)
        if is_idle:
            self._notify(IdleNodeGone(node_id, record))

    def _index(self, old: Node | None, seen: Versioned[Node]) -> None:
        """Put the node into the indexes where it belongs, and no others."""
        new = seen.record
        if old is not None and old.provider == new.provider:
            self._of_provider[new.provider][new.id] = seen
        else:
            if old is not None:
                _drop(self._of_provider, old.provider, new.id)
            _put(self._of_provider, new.provider, seen)
        if old is not None and old.state in _BEING_MADE:
            _drop(self._being_made, old.provider, new.id)
        if new.state in _BEING_MADE:
            _put(self._being_made, new.provider, seen)
        request_id = new.allocated_to
        if old is not None and request_id and old.allocated_to == request_id:
            self._of_request[request_id][new.id] = seen
            return
        if old is not None:
            if old.allocated_to:
                _drop(self._of_request, old.allocated_to, new.id)
            elif old.state is NodeState.READY:
                self.idle.remove(old)
        if request_id:
            _put(self._of_request, request_id, seen)
        elif new.state is NodeState.READY:
            self.idle.add(seen)

    def _contender_came(self, name: str, entry: Entry) -> None:
        """Note a new contender. *name*: path below `paths.NODES`."""
        node_id, _, rest = name.partition("/lock/")
        if rest and paths.contender_sequence(rest) is not None:
            contenders = self._node_contenders.get(NodeId(node_id))
            if contenders is None:
                self._node_contenders[NodeId(node_id)] = {entry.path: bool(entry.stat.owner)}
            else:
                contenders[entry.path] = bool(entry.stat.owner)

    def _contender_left(self, name: str, path: str) -> None:
        node_id = NodeId(name.partition("/")[0])
        contenders = self._node_contenders.get(node_id)
        if contenders is None or contenders.pop(path, None) is None or contenders:
            return
        del self._node_contenders[node_id]
        seen = self.nodes.get(node_id)
        self._notify_of_node(NodeUnlocked(node_id), seen.record.provider if seen is not None else None, None)


def _put(index: dict[K, dict[NodeId, Versioned[Node]]], key: K, seen: Versioned[Node]) -> None:
    nodes = index.get(key)
    if nodes is None:
        index[key] = {seen.record.id: seen}
    else:
        nodes[seen.record.id] = seen


def _drop(index: dict[K, dict[NodeId, Versioned[Node]]], key: K, node_id: NodeId) -> None:
    nodes = index[key]
    del nodes[node_id]
    if not nodes:
        del index[key]
