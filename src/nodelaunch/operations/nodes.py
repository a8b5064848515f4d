"""Changes of nodes by an operator: hold, end a hold, delete, erase the records of a provider.

Each change works on records alone and takes the node's lock first, so no node in use is changed. The launchers act on
the new records. Prompts and tables are in cli/ and web/. Source: Nodepool 11, commands ``hold``, ``delete``, ``info``
and ``erase``.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nodelaunch.clock import Clock, WallClock
from nodelaunch.engine.view import ClusterView, NodeRemoved
from nodelaunch.errors import LockBusyError, NodelaunchError, RecordGoneError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.registrations import process_names
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Lock, Put, Store

log: Logger = get_logger(__name__)

LOCK_TIMEOUT_S = 5.0
"""Time limit of the wait for a node's lock. Source: Nodepool."""
LONG_LOCKED = frozenset({NodeState.INIT, NodeState.BUILDING, NodeState.IN_USE})
"""States in which the owner of a node's lock keeps it for long, so there is no point in a wait."""
GONE_TIMEOUT_S = 600.0
"""Time limit of the wait for a deletion; launchers have the same limit."""


class NodeNotFoundError(NodelaunchError):
    """The node does not exist."""


class NodeBusyError(NodelaunchError):
    """The node is in use, or allocated to a request."""


class ProviderNotFoundError(NodelaunchError):
    """The store has no records of the provider."""


class ProviderServedError(NodelaunchError):
    """Running launchers serve the provider and need its records."""


@dataclass(frozen=True, slots=True)
class ProviderRecords:
    """All records of one provider."""

    uploads: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)
    """Ids of uploads by image and build."""
    nodes: list[Node] = field(default_factory=list)


class Operator:
    """Changes nodes in *store*, which *view* shows."""

    def __init__(self, store: Store, view: ClusterView, clock: Clock | None = None) -> None:
        self._store = store
        self._view = view
        self._clock = clock or WallClock()

    async def hold(
        self, node_id: str, *, reason: str | None = None, expires_s: int | None = None, force: bool = False
    ) -> Node:
        """Set a node to state ``hold``: it is neither assigned nor deleted until the hold ends.

        *reason* becomes the node's comment. *expires_s*: seconds after which launchers delete it; None: their
        ``max-hold-age``. *force*: hold also a node that is allocated to a request, which then fails for its client.
        Raises: NodeNotFoundError, NodeBusyError, StoreError.
        """

        def held(node: Node) -> Node:
            if node.state is not NodeState.HOLD and node.allocated_to and not force:
                raise NodeBusyError(
                    f"node {node.id} is allocated to request {node.allocated_to}; use force to take it anyway"
                )
            return node.changed(hold_expiration=expires_s, **({} if reason is None else {"comment": reason})).into(
                NodeState.HOLD, self._clock.now()
            )

        return await self._change(node_id, held)

    async def unhold(self, node_id: str, *, reuse: bool = False) -> Node:
        """End a hold: the node becomes used and is deleted; with *reuse* it becomes ready for any request.

        Raises: NodeNotFoundError, NodeBusyError, StoreError; NodelaunchError for a node that is not held.
        """

        def freed(node: Node) -> Node:
            if node.state is not NodeState.HOLD:
                raise NodelaunchError(f"node {node.id} is not held; it is {node.state.value}")
            ended = node.changed(hold_expiration=None, hold_job=None)
            if reuse:  # free for any request: forget its former user
                return (
                    ended.deallocated().changed(comment=None, user_data=None).into(NodeState.READY, self._clock.now())
                )
            return ended.into(NodeState.USED, self._clock.now())

        return await self._change(node_id, freed)

    async def delete(self, node_id: str) -> Node:
        """Set a node to ``deleting``, from any state. Raises: NodeNotFoundError, NodeBusyError, StoreError."""
        return await self._change(node_id, lambda node: node.into(NodeState.DELETING, self._clock.now()))

    async def gone(self, node_id: str, *, timeout_s: float = GONE_TIMEOUT_S) -> None:
        """Wait until the node does not exist any more. Raises: TimeoutError."""
        removed = asyncio.Event()
        stop = self._view.subscribe(lambda _event: removed.set(), NodeRemoved)
        try:
            async with asyncio.timeout(timeout_s):
                while NodeId(node_id) in self._view.nodes:
                    removed.clear()
                    await removed.wait()
        finally:
            stop()

    async def _change(self, node_id: str, change: Callable[[Node], Node]) -> Node:
        """Replace the node's record by the result of *change*, under its lock."""
        path = paths.node(NodeId(node_id))
        async with self._locked(NodeId(node_id)) as lock:
            entry = await self._store.get(path)
            node = change(Node.from_bytes(path, entry.data, node_id=NodeId(node_id)))
            await self._store.commit([Put(path, node.to_bytes(), entry.stat.version, node)], under=(lock,))
        log.info("node_changed_by_hand", node_id=node_id, state=node.state.value, detail=node.comment)
        return node

    @asynccontextmanager
    async def _locked(self, node_id: NodeId) -> AsyncIterator[Lock]:
        if node_id not in self._view.nodes:
            raise NodeNotFoundError(f"there is no node {node_id!r}")
        if self._view.nodes[node_id].record.state in LONG_LOCKED and self._view.is_node_locked(node_id):
            raise NodeBusyError(f"node {node_id} is locked: {self._user_of(node_id)}")
        try:
            lock = await self._store.lock(paths.node_lock(node_id), timeout_s=LOCK_TIMEOUT_S)
        except LockBusyError:
            raise NodeBusyError(f"node {node_id} is locked: {self._user_of(node_id)}") from None
        except RecordGoneError:
            raise NodeNotFoundError(f"node {node_id} is gone") from None
        try:
            yield lock
        finally:
            await lock.release()

    def _user_of(self, node_id: NodeId) -> str:
        node = self._view.node(node_id)
        if node is None:
            return "it is being deleted"
        if node.state is NodeState.IN_USE:
            return f"it is in use{f' by {node.requestor}' if node.requestor else ''}"
        return f"a launcher works on it ({node.state.value})"

    # -- providers --------------------------------------------------------------------------------------------------

    def records_of(self, provider: str) -> ProviderRecords:
        """Return the records of *provider*, in the order of ids.

        Raises: ProviderNotFoundError when there are no records and no running launcher offers it.
        """
        uploads: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for _, seen in sorted(self._view.uploads.items()):
            if seen.record.provider == provider:
                uploads[seen.record.image][seen.record.build_id].append(seen.record.upload_id)
        nodes = sorted((seen.record for seen in self._view.nodes_of(provider)), key=lambda node: node.id)
        if not uploads and not nodes and provider not in (known := self._providers()):
            raise ProviderNotFoundError(
                f"there is no provider {provider!r}: nothing is recorded of it, and no running launcher offers it; "
                f"known are: {', '.join(sorted(known)) or 'none'}"
            )
        return ProviderRecords({image: dict(builds) for image, builds in sorted(uploads.items())}, nodes)

    def _providers(self) -> set[str]:
        """Return the providers in any record, and those in the pools of running launchers."""
        seen = {
            *(upload.record.provider for upload in self._view.uploads.values()),
            *(node.record.provider for node in self._view.nodes.values()),
            *(pool.record.provider_name for pool in self._view.pools.values()),
        }
        return {name for name in seen if name}

    def erasable(self, provider: str) -> ProviderRecords:
        """Return the records that `erase` may remove. Raises: ProviderServedError, and the errors of `records_of`."""
        self._refuse_served(provider)
        return self.records_of(provider)

    def _refuse_served(self, provider: str) -> None:
        names = process_names(seen.record for seen in self._view.presences.values())
        serving = {
            names.get(peer.launcher, pool.record.hostname)
            for peer, pool in zip(self._view.peers, self._view.pools.values(), strict=True)
            if peer.provider == provider
        }
        if serving:
            raise ProviderServedError(
                f"provider {provider!r} is served by {', '.join(sorted(serving))}: they work with its records and make "
                "new nodes; take it out of their configuration, or stop them, before its records are erased"
            )

    async def erase(self, provider: str, found: ProviderRecords) -> None:
        """Remove the records *found* of a provider. Its cloud is not touched.

        Raises: ProviderServedError, StoreError.
        """
        self._refuse_served(provider)
        for image, builds in found.uploads.items():
            for build in builds:
                await self._store.delete_tree(paths.uploads(image, build, provider).rpartition("/")[0])
        for node in found.nodes:
            await self._store.delete_tree(paths.node(node.id))
        log.info("provider_erased", provider=provider, nodes=len(found.nodes))
