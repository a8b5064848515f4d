"""Requests that nobody is at although they are pending, and what is left of requests that are gone.

What does *not* belong here: nodes of requests that are gone (abandoned.py).
"""

from __future__ import annotations

import asyncio

from nodelaunch.engine.cleanup.abandoned import AbandonedNodes
from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.engine.cleanup.queue import FIRST_BACKOFF_S, STORE, RequestKey
from nodelaunch.engine.nodelocks import rewrite_node
from nodelaunch.engine.view import Seen
from nodelaunch.errors import LockBusyError, NotEmptyError, RecordGoneError, VersionConflictError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import REQUEST_FINAL, NodeState, RequestState

log: Logger = get_logger(__name__)


class LostRequests:
    """Looks at requests one by one."""

    def __init__(self, ctx: SweepContext, nodes: AbandonedNodes) -> None:
        self._ctx = ctx
        self._nodes = nodes

    def look_at_all(self) -> None:
        """Look at each request for which nothing may have been done."""
        view = self._ctx.view
        pending = [r for r, seen in view.requests.items() if seen.record.state is RequestState.PENDING]
        for request_id in pending:
            self.look(request_id)

    def look(self, request_id: RequestId) -> None:
        """Do what is to be done about a request, if anything is."""
        view = self._ctx.view
        seen = view.requests.get(request_id)
        if seen is None:
            self.removed(request_id)  # its lock was still held then
            return
        state = seen.record.state
        if state is RequestState.PENDING:
            if not view.is_request_locked(request_id):
                # Of one transaction the record may be told before the lock, both in one turn of the loop.
                asyncio.get_running_loop().call_soon(self._look_at_pending, request_id)
        elif state in REQUEST_FINAL and self._nodes.left:
            self._look_at_nodes(request_id)  # nobody awaits them any more

    def _look_at_pending(self, request_id: RequestId) -> None:
        view = self._ctx.view
        seen = view.requests.get(request_id)
        is_pending = seen is not None and seen.record.state is RequestState.PENDING
        if is_pending and view.is_warm and not view.is_request_locked(request_id):
            self._ctx.queue.start(RequestKey(request_id), STORE, self.reset, request_id)

    def removed(self, request_id: RequestId) -> None:
        """See to what is left of a request that is gone."""
        view = self._ctx.view
        self._look_at_nodes(request_id)
        if not self._ctx.is_our_turn(request_id):
            return  # what the process whose turn it is leaves, goes with other debris
        if request_id in view.stray_lock_dirs and not view.is_request_locked(request_id):
            self._ctx.queue.start(RequestKey(request_id), STORE, self.remove_lock_dir, request_id)

    def _look_at_nodes(self, request_id: RequestId) -> None:
        for seen in self._ctx.view.nodes_allocated_to(request_id):
            self._nodes.look(seen.record.id)

    # -- acting -----------------------------------------------------------------------------------------------------

    async def reset(self, request_id: RequestId) -> None:
        """Take a pending request whose launcher is gone back to requested, its unused nodes freed."""
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
                    # Somebody just looks at one of its nodes; reset now, the request would keep it from everybody.
                    ctx.queue.postpone(RequestKey(request_id), FIRST_BACKOFF_S)
                    return
            reset = current.record.into(RequestState.REQUESTED, ctx.clock.now(), nodes=())
            await ctx.store.put(current.path, reset.to_bytes(), version=current.version, under=(lock,))
            log.info("lost_request_reset", request_id=request_id)
        except (VersionConflictError, RecordGoneError):
            pass  # it changed under us; what it is now is looked at when the change is seen
        finally:
            await lock.release()

    async def _take_back(self, seen: Seen[Node]) -> bool:
        """Free one node of a lost request, if nobody else has it; those still building are deleted as abandoned."""
        node = seen.record
        if node.state is NodeState.INIT:
            node = node.into(NodeState.DELETING, self._ctx.clock.now())
        elif node.state is not NodeState.READY:
            return True
        return await rewrite_node(self._ctx.store, seen, node.deallocated())

    async def remove_lock_dir(self, request_id: RequestId) -> None:
        """Remove the lock directory of a request that is gone; one with something odd in it goes with other debris."""
        try:
            await self._ctx.store.delete(paths.request_lock(request_id))
        except RecordGoneError:
            pass
        except NotEmptyError:
            self._ctx.queue.postpone(RequestKey(request_id), FIRST_BACKOFF_S)
