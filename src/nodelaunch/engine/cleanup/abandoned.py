"""Abandoned nodes: unlocked, in a state that requires a holder of the lock. They are deleted, or freed.

A node that is building is first offered to the next launcher of its request, which resumes the launch; it is deleted
when `GRACE_S` is over.

deletion.py deletes a node; ages.py has nodes that are merely old.
"""

from __future__ import annotations

import asyncio

from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.engine.cleanup.deadlines import Deadlines
from nodelaunch.engine.cleanup.deletion import delete_node
from nodelaunch.engine.cleanup.queue import STORE, NodeKey
from nodelaunch.engine.view import Versioned
from nodelaunch.errors import DriverError, LockBusyError, RecordGoneError, VersionConflictError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import ABANDONED_WHEN_UNLOCKED, REQUEST_FINAL, NodeState
from nodelaunch.protocol.store import Put, ReleaseLock

log: Logger = get_logger(__name__)

GRACE_S = {NodeState.DELETING: 1.0, NodeState.DELETED: 5.0, NodeState.BUILDING: 60.0}
"""Seconds for which an unlocked node in such a state is left to another process. ``DELETING``: left to the process that
wrote it; an operator's command shows the node once more, a peer removes the record. Nodepool's reaper looks every 5
seconds, and its programs rely on that. ``BUILDING``: an interrupted launch is left to the next launcher that takes its
request."""


class AbandonedNodes:
    """Checks nodes one by one.

    Invariant: a node is in ``graces`` only while it is in ``left``, in the state it is left in.
    """

    def __init__(self, ctx: SweepContext) -> None:
        self._ctx = ctx
        self.graces: Deadlines[NodeId] = Deadlines(ctx.wake)
        """Times, by the loop's clock, until which nodes are left to the process that wrote their state."""
        self.left: dict[NodeId, tuple[NodeState, float]] = {}
        """Nodes that are, or were, left to another process: the state, and the time until which they are left."""

    def look(self, node_id: NodeId) -> None:
        """Act on a node if it is abandoned."""
        view = self._ctx.view
        seen = view.nodes.get(node_id)
        if seen is None:
            return
        if view.is_node_locked(node_id):
            self._forget(node_id)
        elif seen.record.state is NodeState.BUILDING:
            # The record of a transaction may be reported before its lock, both in one turn of the loop.
            asyncio.get_running_loop().call_soon(self._look_at_building, seen)
        else:
            self._look(seen)

    def _look_at_building(self, seen: Versioned[Node]) -> None:
        view, node_id = self._ctx.view, seen.record.id
        if view.is_synced and view.nodes.get(node_id) is seen and not view.is_node_locked(node_id):
            self._look(seen)

    def _look(self, seen: Versioned[Node]) -> None:
        """Act on an unlocked node."""
        node, node_id = seen.record, seen.record.id
        provider = node.provider
        if not provider:
            self._ctx.queue.start(NodeKey(node_id), STORE, self.remove_debris, node_id)
        elif provider not in self._ctx.providers:
            return
        elif node.state in ABANDONED_WHEN_UNLOCKED:
            if not self._is_left_to_another(node):
                self._ctx.queue.start(NodeKey(node_id), provider, self.delete, node_id)
            elif node.state is NodeState.BUILDING and not self._ctx.view.is_interrupted(seen):
                self._ctx.queue.start(NodeKey(node_id), STORE, self.offer, node_id)
        elif self.is_orphaned(node):
            self._ctx.queue.start(NodeKey(node_id), STORE, self.deallocate, node_id)

    def gone(self, node_id: NodeId) -> None:
        """Handle the removal of the node."""
        self._forget(node_id)
        self._ctx.queue.succeeded(NodeKey(node_id))

    def _forget(self, node_id: NodeId) -> None:
        if self.left and self.left.pop(node_id, None) is not None:
            self.graces.forget(node_id)

    def clear(self) -> None:
        """Forget all nodes left to others: some entries may be out of date."""
        gone = [node_id for node_id in self.left if node_id not in self._ctx.view.nodes]
        for node_id in gone:
            self._forget(node_id)

    def _is_left_to_another(self, node: Node) -> bool:
        """True if the node has been in its state for so short a time that its writer may not be done with it.

        Peers unlock a node before their last steps, which fail if another process contends for the lock or deletes the
        record first.
        """
        grace_s = GRACE_S.get(node.state, 0.0)
        if not grace_s or node.id in self._ctx.view.discarded:
            return False
        if node.state is NodeState.BUILDING and not self._is_awaited(node):
            return False
        now = asyncio.get_running_loop().time()
        state, until = self.left.get(node.id, (None, 0.0))
        if state is not node.state:
            until = now + grace_s
            self.left[node.id] = (node.state, until)
            self.graces.set(node.id, until)
        return now < until

    def _is_awaited(self, node: Node) -> bool:
        """Return True if the request that the node is launched for still exists."""
        request = self._ctx.view.request(node.allocated_to) if node.allocated_to else None
        is_open = request is not None and request.state not in REQUEST_FINAL
        return is_open and self._ctx.providers[node.provider or ""].can_launch

    def is_orphaned(self, node: Node) -> bool:
        """Return True if the node is ready for a request that seems to be deleted. This is checked again under the
        lock."""
        if node.state is not NodeState.READY or not node.allocated_to:
            return False
        return node.allocated_to not in self._ctx.view.requests

    # -- acting -----------------------------------------------------------------------------------------------------

    async def _is_abandoned(self, seen: Versioned[Node]) -> bool:
        """Return True if the node is really abandoned. Only for a node that was just created, the lock may not be known
        yet."""
        if seen.record.state is not NodeState.BUILDING:
            return True
        is_there = await self._ctx.is_there(seen.path)
        is_same = self._ctx.view.nodes.get(seen.record.id) is seen
        return is_there and is_same and not self._ctx.view.is_node_locked(seen.record.id)

    async def delete(self, node_id: NodeId) -> None:
        """Delete an abandoned node. If its cloud refuses, look again after a growing back-off."""
        ctx = self._ctx
        seen = ctx.view.nodes.get(node_id)
        if seen is None or not await self._is_abandoned(seen):
            return
        node, provider = seen.record, ctx.providers.get(seen.record.provider or "")
        if provider is None:
            return  # another process deleted or changed the node
        log_ = log.bind(node_id=node_id, provider=provider.name, external_id=node.external_id)
        started = asyncio.get_running_loop().time()
        try:
            if not await delete_node(ctx.store, ctx.view, ctx.clock, provider, node_id):
                return
        except (DriverError, TimeoutError) as error:
            log_.warning("delete_failed", detail=str(error), retry_in_s=ctx.queue.failed(NodeKey(node_id)))
            provider.report(node.pool, node.allocated_to, f"deletion of node {node_id} failed: {error}")
            return
        log_.info("node_deleted", was=node.state.value, took_s=round(asyncio.get_running_loop().time() - started, 3))

    async def offer(self, node_id: NodeId) -> None:
        """Free an interrupted launch for the next launcher that takes its request."""
        seen = self._ctx.view.nodes.get(node_id)
        if seen is None or not await self._is_abandoned(seen):
            return
        provider = self._ctx.providers.get(seen.record.provider or "")
        if provider is None:
            return
        self._ctx.view.interrupted[node_id] = seen.version
        log.info("launch_interrupted", node_id=node_id, provider=provider.name, external_id=seen.record.external_id)
        provider.changed()

    async def remove_debris(self, node_id: NodeId) -> None:
        """Remove a record that belongs to no provider: taking a lock created a deleted node's znode again."""
        seen = self._ctx.view.nodes.get(node_id)
        if seen is None or seen.record.provider:
            return  # another launcher was faster
        try:
            lock = await self._ctx.store.lock(paths.node_lock(node_id))
        except (LockBusyError, RecordGoneError):
            return
        await lock.release()
        log.info("debris_removed", path=seen.path)
        await self._ctx.store.delete_tree(seen.path)

    async def deallocate(self, node_id: NodeId) -> None:
        """Free a ready node whose request was deleted, after asking the store itself about the request."""
        ctx = self._ctx
        seen = ctx.view.nodes.get(node_id)
        request_id = seen.record.allocated_to if seen is not None else None
        if seen is None or request_id is None or not self.is_orphaned(seen.record):
            return  # another process was faster
        if await ctx.is_there(paths.request(request_id)) or ctx.view.is_node_locked(node_id):
            return
        try:
            lock = await ctx.store.lock(paths.node_lock(node_id))
        except (LockBusyError, RecordGoneError):
            return
        try:
            # One step: a peer that sees the node free must not find it locked any more.
            node = seen.record.deallocated()
            free = Put(seen.path, node.to_bytes(), seen.version, record=node)
            await ctx.store.commit([free, ReleaseLock(lock)], under=(lock,))
            log.info("node_deallocated", node_id=node_id, request_id=request_id)
        except (VersionConflictError, RecordGoneError):
            pass  # the node changed meanwhile; the event of the change makes us look again
        finally:
            await lock.release()
