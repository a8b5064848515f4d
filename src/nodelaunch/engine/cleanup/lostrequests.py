"""Pending requests without a launcher, and the leftovers of deleted requests. abandoned.py has the nodes of deleted
requests."""

from __future__ import annotations

import asyncio

from nodelaunch.engine.cleanup.abandoned import AbandonedNodes
from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.engine.cleanup.queue import FIRST_BACKOFF_S, STORE, RequestKey
from nodelaunch.engine.nodelocks import rewrite_node
from nodelaunch.engine.view import Versioned
from nodelaunch.errors import LockBusyError, NotEmptyError, RecordGoneError, VersionConflictError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import REQUEST_FINAL, NodeState, RequestState

log: Logger = get_logger(__name__)


class LostRequests:
    """Checks requests one by one."""

    def __init__(self, ctx: SweepContext, nodes: AbandonedNodes) -> None:
        self._ctx = ctx
        self._nodes = nodes

    def look_at_all(self) -> None:
        """Check each request that may need repair."""
        view = self._ctx.view
        pending = [r for r, seen in view.requests.items() if seen.record.state is RequestState.PENDING]
        for request_id in pending:
            self.look(request_id)

    def look(self, request_id: RequestId) -> None:
        """Repair a request if it needs that."""
        view = self._ctx.view
        seen = view.requests.get(request_id)
        if seen is None:
            self.removed(request_id)  # its lock was still held then
            return
        state = seen.record.state
        if state is RequestState.PENDING:
            if not view.is_request_locked(request_id):
                # The record of a transaction may be reported before its lock, both in one turn of the loop.
                asyncio.get_running_loop().call_soon(self._look_at_pending, request_id)
        elif state in REQUEST_FINAL and self._nodes.left:
            self._look_at_nodes(request_id)  # no request waits for them any more

    def _look_at_pending(self, request_id: RequestId) -> None:
        view = self._ctx.view
        seen = view.requests.get(request_id)
        is_pending = seen is not None and seen.record.state is RequestState.PENDING
        if is_pending and view.is_synced and not view.is_request_locked(request_id):
            self._ctx.queue.start(RequestKey(request_id), STORE, self.reset, request_id)

    def removed(self, request_id: RequestId) -> None:
        """Clean up after a request that was deleted."""
        view = self._ctx.view
        self._look_at_nodes(request_id)
        if not self._ctx.is_our_turn(request_id):
            return  # if the process whose turn it is fails to do it, the periodic search does
        if request_id in view.stray_lock_dirs and not view.is_request_locked(request_id):
            self._ctx.queue.start(RequestKey(request_id), STORE, self.remove_lock_dir, request_id)

    def _look_at_nodes(self, request_id: RequestId) -> None:
        for seen in self._ctx.view.nodes_allocated_to(request_id):
            self._nodes.look(seen.record.id)

    # -- acting -----------------------------------------------------------------------------------------------------

    async def reset(self, request_id: RequestId) -> None:
        """Write a pending request whose launcher died as requested, and free its unused nodes."""
        ctx = self._ctx
        is_there = await ctx.is_there(paths.request(request_id))
        if not is_there or ctx.view.is_request_locked(request_id):
            return
        try:
            lock = await ctx.store.lock(paths.request_lock(request_id))
        except (LockBusyError, RecordGoneError):
            return
        try:
            current = ctx.view.requests.get(request_id)
            if current is None or current.record.state is not RequestState.PENDING:
                return
            for node in ctx.view.nodes_allocated_to(request_id):
                if not await self._take_back(node):
                    # Another process is only checking one of its nodes. If the request were reset now, no launcher
                    # could use the node.
                    ctx.queue.postpone(RequestKey(request_id), FIRST_BACKOFF_S)
                    return
            reset = current.record.into(RequestState.REQUESTED, ctx.clock.now(), nodes=())
            await ctx.store.put(current.path, reset.to_bytes(), version=current.version, under=(lock,))
            log.info("lost_request_reset", request_id=request_id)
        except (VersionConflictError, RecordGoneError):
            pass  # the request changed meanwhile; the event of the change makes us look again
        finally:
            await lock.release()

    async def _take_back(self, seen: Versioned[Node]) -> bool:
        """Free one node of a lost request, unless another process has it.

        A node that is still building stays: a launcher resumes its launch, or abandoned.py deletes it after a minute.
        """
        node = seen.record
        if node.state is NodeState.INIT:
            node = node.into(NodeState.DELETING, self._ctx.clock.now())
        elif node.state is not NodeState.READY:
            return True
        return await rewrite_node(self._ctx.store, seen, node.deallocated())

    async def remove_lock_dir(self, request_id: RequestId) -> None:
        """Remove the lock directory of a deleted request. The periodic search removes a directory with unexpected
        children."""
        try:
            await self._ctx.store.delete(paths.request_lock(request_id))
        except RecordGoneError:
            pass
        except NotEmptyError:
            self._ctx.queue.postpone(RequestKey(request_id), FIRST_BACKOFF_S)
