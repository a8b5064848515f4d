"""Clients of the store besides launchers: Zuul's scheduler, its executors, an operator. They act as Zuul does.

What does *not* belong here: when they act, and their requests (scenario.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fuzz.scenario import RequestPlan, Use
from fuzz.store import SimStore
from nodelaunch.errors import LockBusyError, RecordGoneError, VersionConflictError
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import REQUEST_FINAL, NodeState, RequestState
from nodelaunch.protocol.store import Entry, Lock, Tree

HOLD_S = 60
LOCK_TIMEOUT_S = 30.0


@dataclass(eq=False, slots=True)
class _Taken:
    node: Node
    lock: Lock


class Zuul:
    """The scheduler; it starts an executor, with a session of its own, for each job."""

    def __init__(
        self,
        store: SimStore,
        now: Callable[[], float],
        executor: Callable[[str], SimStore],
        broken: Callable[[str, str], None],
        is_doomed: Callable[[NodeId], bool],
    ) -> None:
        """*broken* is called where a launcher does not keep its word; *is_doomed*: whether a node was taken away."""
        self.store = store
        self.tree: Tree | None = None
        self._now = now
        self._executor = executor
        self._broken = broken
        self._is_doomed = is_doomed

    async def job(self, plan: RequestPlan) -> None:
        """Play the client of a request from beginning to end."""
        await asyncio.sleep(plan.at)
        request_id = await self._submit(plan)
        revising = asyncio.ensure_future(self._revise(request_id, plan))
        try:
            async with asyncio.timeout(plan.cancelled_after):
                request = await self._finished(request_id)
        except TimeoutError:
            await self._delete(request_id)
            return
        finally:
            revising.cancel()
            await asyncio.gather(revising, return_exceptions=True)
        if request is None:
            return
        if request.state is RequestState.FAILED or plan.use is Use.CANCEL:
            await self._delete(request_id)
        else:
            await asyncio.sleep(plan.taken_after)
            await self._run(request, plan)

    async def _submit(self, plan: RequestPlan) -> RequestId:
        request = NodeRequest(
            id=RequestId(""),
            state_time=self._now(),
            created_time=self._now(),
            node_types=plan.labels,
            requestor="zuul",
            provider=plan.provider,
            relative_priority=plan.relative_priority,
            tenant_name=plan.tenant,
        )
        path = paths.new_request(plan.priority)
        entry = await self.store.create(path, request.to_bytes(), sequence=True)
        return paths.request_id_at(entry.path) or RequestId("")

    async def _finished(self, request_id: RequestId) -> NodeRequest | None:
        """Wait until it is answered; None when it is deleted."""
        tree, path = self.tree, paths.request(request_id)
        assert tree is not None
        changed = asyncio.Event()
        stop = tree.subscribe(lambda _event: changed.set())
        try:
            while (entry := tree.get(path)) is not None:
                request = _request(entry, request_id)
                if request.state in REQUEST_FINAL:
                    return request
                changed.clear()
                await changed.wait()
            return None
        finally:
            stop()

    async def _revise(self, request_id: RequestId, plan: RequestPlan) -> None:
        if plan.revised_after is None or self.tree is None:
            return
        await asyncio.sleep(plan.revised_after)
        entry = self.tree.get(paths.request(request_id))
        if entry is None or _request(entry, request_id).state is not RequestState.REQUESTED:
            return
        with suppress(LockBusyError, RecordGoneError, VersionConflictError):
            lock = await self.store.lock(paths.request_lock(request_id))
            try:
                revised = _request(entry, request_id).changed(relative_priority=plan.relative_priority + 1)
                await self.store.put(entry.path, revised.to_bytes(), version=entry.stat.version)
            finally:
                await lock.release()

    async def _delete(self, request_id: RequestId) -> None:
        with suppress(RecordGoneError):
            await self.store.delete(paths.request(request_id))

    async def _run(self, request: NodeRequest, plan: RequestPlan) -> None:
        async with self._executor(f"exec-{request.id}") as store:
            taken = await self._take(store, request)
            with suppress(RecordGoneError):
                await store.delete(paths.request(request.id))
            if plan.use is Use.DIE_EARLY:
                return  # with its session, everything it holds
            if plan.use is Use.UNUSED:
                await _release(taken)
                return
            for each in taken:
                await self._write(store, each, each.node.into(NodeState.IN_USE, self._now()))
            await asyncio.sleep(plan.used_for)
            if plan.use is Use.DIE_LATE:
                return
            for each in taken:
                node = each.node.into(NodeState.USED, self._now())
                if plan.use is Use.HOLD:
                    node = each.node.into(NodeState.HOLD, self._now(), hold_expiration=HOLD_S)
                await self._write(store, each, node)
            await _release(taken)

    async def _take(self, store: SimStore, request: NodeRequest) -> list[_Taken]:
        """Lock what was given, as far as that is possible; the record is not read again under the lock."""
        taken: list[_Taken] = []
        for node_id in request.nodes:
            try:
                entry = await store.get(paths.node(node_id))
                node = Node.from_bytes(entry.path, entry.data, node_id=node_id)
                if node.allocated_to == request.id:
                    lock = await store.lock(paths.node_lock(node_id), timeout_s=LOCK_TIMEOUT_S)
                    taken.append(_Taken(node, lock))
                    continue
                problem = f"it is allocated to {node.allocated_to}"
            except RecordGoneError:
                problem = "it is not there"
            except LockBusyError:
                problem = "its lock is not free"
            if not self._is_doomed(node_id):
                self._broken("what was given can be taken", f"{node_id} of {request.id}: {problem}")
        return taken

    async def _write(self, store: SimStore, taken: _Taken, node: Node) -> None:
        taken.node = node
        await store.put(paths.node(node.id), node.to_bytes())


async def _release(taken: Sequence[_Taken]) -> None:
    for each in taken:
        await each.lock.release()


def _request(entry: Entry, request_id: RequestId) -> NodeRequest:
    return NodeRequest.from_bytes(entry.path, entry.data, request_id=request_id)


async def operate(store: SimStore, now: Callable[[], float], does: str, choose: Callable[[list[str]], str]) -> None:
    """Do to a ready, unassigned node what the command line's ``hold`` and ``delete`` do."""
    names = [name for name in await store.children(paths.NODES) if name.isdigit()]
    if not names:
        return
    node_id = NodeId(choose(names))
    with suppress(LockBusyError, RecordGoneError):
        lock = await store.lock(paths.node_lock(node_id), timeout_s=5.0)
        try:
            entry = await store.get(paths.node(node_id))
            node = Node.from_bytes(entry.path, entry.data, node_id=node_id)
            if not node.is_idle:
                return
            held = node.into(NodeState.HOLD, now(), hold_expiration=HOLD_S)
            node = held if does == "hold" else node.into(NodeState.DELETING, now())
            await store.put(entry.path, node.to_bytes())
        finally:
            await lock.release()
