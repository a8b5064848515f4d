"""Mends what nobody else will: abandoned nodes, lost requests, nodes kept too long, leaked instances, stale locks.

Most of it is driven by events: a node that is unlocked in a state nobody may leave it in, a pending request without a
lock. What only time tells (ages, leaks, debris) is looked at every `SWEEP_S`. Each step is guarded by itself.
What does *not* belong here: how a node is deleted (launch.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from nodelaunch.clock import Clock
from nodelaunch.engine.deletion import DELETE_TIMEOUT_S, delete_node
from nodelaunch.engine.holding import discard_node, rewrite_node
from nodelaunch.engine.leaks import Leak, delete_leak, find_leaks
from nodelaunch.engine.provider import ProviderRuntime
from nodelaunch.engine.view import (
    ClusterView,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    Note,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
    Seen,
    ViewWarmed,
)
from nodelaunch.errors import (
    DriverError,
    LockBusyError,
    NotEmptyError,
    RecordGoneError,
    StoreError,
    VersionConflictError,
)
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import ABANDONED_WHEN_UNLOCKED, REQUEST_FINAL, NodeState, RequestState
from nodelaunch.protocol.store import Put, ReleaseLock, SessionState, Store

log = structlog.get_logger(__name__)

SWEEP_S = 60.0
"""Between looks at what only time tells. Source: Nodepool 11, cleanup interval."""
STALE_LOCK_S = 8 * 3600.0
"""Age at which the lock directory of a vanished request goes. Source: Nodepool 11."""
ORPHAN_S = 300.0
"""Age at which an unlocked ``init`` node counts as left behind: its maker locks it within milliseconds."""
STALE_QUESTION_S = 600.0
"""Age at which a question about a request goes that its asker left behind."""
GRACE_S = {NodeState.DELETING: 1.0, NodeState.DELETED: 5.0, NodeState.BUILDING: 60.0}
"""How long a node in such a state is left to somebody else. One that is being deleted, to whoever wrote that: an
operator's command shows the node once more, a peer removes the record. Nodepool's reaper looks every 5 seconds, and its
programs count on that. One whose launch broke off, to whoever works on its request next."""
MAX_DELETIONS = 64
"""Deletions at once."""
FIRST_BACKOFF_S, LAST_BACKOFF_S = 5.0, 300.0


@dataclass(frozen=True, slots=True)
class AgeLimits:
    """How long nodes are kept, in seconds; 0: for ever."""

    max_ready_age: Mapping[str, float]
    """By label."""
    max_hold_age: float = 0.0


class Sweeper:
    """One per launcher. `run` it."""

    def __init__(
        self,
        store: Store,
        view: ClusterView,
        clock: Clock,
        providers: Mapping[str, ProviderRuntime],
        ages: AgeLimits,
        is_served: Callable[[Node], bool] = lambda _node: True,
    ) -> None:
        """*providers*: those whose nodes we can delete, as of now. *is_served*: whether some pool can still hand out
        the idle node."""
        self.ages = ages
        self._is_served = is_served
        self._soon = asyncio.Event()
        self._store = store
        self._view = view
        self._clock = clock
        self._providers = providers
        self._under_way: set[str] = set()
        self._failures: dict[NodeId, int] = {}
        self._not_before: dict[str, float] = {}
        """By the loop's clock: when a thing may be tried again."""
        self._left_since: dict[tuple[NodeId, NodeState], float] = {}
        """By the loop's clock: since when a node is left to whoever else wrote its state."""
        self._suspects: dict[str, set[tuple[str, str]]] = {}
        """By provider: keys of leaks the last sweep saw."""
        self._empty: set[str] = set()
        self._slots = asyncio.Semaphore(MAX_DELETIONS)
        self._group: asyncio.TaskGroup | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        unsubscribe = self._view.subscribe(self._on_note)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    while True:
                        await self._view.warm()
                        self._soon.clear()
                        await self._sweep()
                        with suppress(TimeoutError):
                            async with asyncio.timeout(SWEEP_S):
                                await self._soon.wait()
                finally:
                    self._group = None  # nothing more is begun
        finally:
            unsubscribe()

    def provider_started(self, name: str) -> None:
        """Nodes of provider *name* can be deleted from now on: see what it left behind."""
        for seen in self._view.nodes_of(name):
            self._look_at_node(seen.record.id)

    def sweep_soon(self) -> None:
        """Don't wait for the next round: what counts as left over may have changed."""
        self._soon.set()

    async def settled(self) -> None:
        """Wait until nothing that was begun is still under way."""
        await self._idle.wait()

    # -- events -----------------------------------------------------------------------------------------------------

    def _on_note(self, note: Note) -> None:
        match note:
            case NodeSeen(node_id, _) | NodeUnlocked(node_id):
                self._look_at_node(node_id)
            case NodeRemoved(node_id, _):
                for state in GRACE_S:
                    self._left_since.pop((node_id, state), None)
            case RequestSeen(request_id) | RequestUnlocked(request_id):
                self._look_at_request(request_id)
            case RequestRemoved(request_id):
                self._request_removed(request_id)
            case ViewWarmed():
                self._look_at_everything()
            case _:
                pass

    def _look_at_everything(self) -> None:
        for node_id in list(self._view.nodes):
            self._look_at_node(node_id)
        for request_id in list(self._view.requests):
            self._look_at_request(request_id)

    def _look_at_node(self, node_id: NodeId) -> None:
        seen = self._view.nodes.get(node_id)
        if seen is None or not self._view.is_warm:
            return
        node = seen.record
        if self._view.is_node_locked(node_id):
            self._left_since.pop((node_id, node.state), None)
            return
        if not node.provider:
            self._begin(node_id, lambda: self._remove_debris(node_id))
        elif node.provider in self._providers:
            if self._is_left_to_another(node):
                if node.state is NodeState.BUILDING and not self._view.is_interrupted(seen):
                    self._begin(node_id, lambda: self._offer(node_id))
                return
            if node.state in ABANDONED_WHEN_UNLOCKED:
                self._begin(node_id, lambda: self._delete(node_id))
            elif self._is_orphaned(node):
                self._begin(node_id, lambda: self._deallocate(node_id))

    def _is_left_to_another(self, node: Node) -> bool:
        """Whether the node has been in its state for so short a time that its writer may not be done with it.

        Peers unlock before their last steps, which fail if a contender, or the end of the record, comes between.
        """
        grace_s = GRACE_S.get(node.state, 0.0)
        if not grace_s or node.id in self._view.discarded:
            return False
        if node.state is NodeState.BUILDING and not self._is_awaited(node):
            return False
        loop = asyncio.get_running_loop()
        key = (node.id, node.state)
        if key not in self._left_since:
            self._left_since[key] = loop.time()
            loop.call_later(grace_s, self._look_at_node, node.id)
        return loop.time() < self._left_since[key] + grace_s

    def _is_awaited(self, node: Node) -> bool:
        """Whether there is somebody the node is being launched for."""
        request = self._view.request(node.allocated_to) if node.allocated_to else None
        is_open = request is not None and request.state not in REQUEST_FINAL
        return is_open and self._providers[node.provider or ""].can_launch

    def _is_orphaned(self, node: Node) -> bool:
        """Ready, but for a request that is gone. Whether it really is, is asked again under the lock."""
        is_allocated = node.state is NodeState.READY and bool(node.allocated_to)
        return is_allocated and node.allocated_to not in self._view.requests

    def _look_at_request(self, request_id: RequestId) -> None:
        request = self._view.request(request_id)
        if request is None:
            self._request_removed(request_id)  # its lock was still held then
            return
        if request.state in REQUEST_FINAL:
            for seen in self._view.nodes_allocated_to(request_id):
                self._look_at_node(seen.record.id)
        is_pending = request.state is RequestState.PENDING
        if is_pending and not self._view.is_request_locked(request_id) and self._view.is_warm:
            self._begin(request_id, lambda: self._reset_lost_request(request_id))

    def _request_removed(self, request_id: RequestId) -> None:
        for seen in self._view.nodes_allocated_to(request_id):
            self._look_at_node(seen.record.id)
        has_lock_dir = request_id in self._view.request_lock_dirs and self._view.is_warm
        if has_lock_dir and not self._view.is_request_locked(request_id):
            self._begin(request_id, lambda: self._remove_lock_dir(request_id))

    # -- running ----------------------------------------------------------------------------------------------------

    def _begin(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        """Start *work* on the thing called *key*, unless some is under way or waits for its next try."""
        if self._group is None or key in self._under_way:
            return
        if self._store.session.state is not SessionState.CONNECTED:
            return
        if asyncio.get_running_loop().time() < self._not_before.get(key, 0.0):
            return
        self._under_way.add(key)
        self._idle.clear()
        self._group.create_task(self._guarded(key, work), name=f"sweep {key}")

    async def _guarded(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            async with self._slots:
                await work()
        except StoreError as error:
            log.info("sweep_step_failed", subject=key, error=type(error).__name__, detail=str(error))
        except Exception:
            log.exception("sweep_step_failed", subject=key)
        finally:
            self._under_way.discard(key)
            self._look_again(key)
            if not self._under_way:
                self._idle.set()

    def _look_again(self, key: str) -> None:
        """Events about the thing were ignored while it was worked on; and what was seen of it may have been old."""
        if key in self._view.nodes:
            self._look_at_node(NodeId(key))
        elif key in self._view.requests:
            self._look_at_request(RequestId(key))
        elif key in self._view.request_lock_dirs:
            self._request_removed(RequestId(key))

    def _retry_later(self, node_id: NodeId) -> float:
        """Leave a node that could not be deleted alone for a growing while; for how many seconds."""
        failures = self._failures.get(node_id, 0)
        self._failures[node_id] = failures + 1
        delay = min(LAST_BACKOFF_S, FIRST_BACKOFF_S * float(2**failures))
        loop = asyncio.get_running_loop()
        self._not_before[node_id] = loop.time() + delay
        loop.call_later(delay, self._look_at_node, node_id)
        return delay

    async def _is_there(self, path: str) -> bool:
        """Whether there is a record, by the store itself.

        A record in the view may be newer than the events told so far, so that the lock it was written under is not
        known yet. It is once the store has answered anything: answers and events come in one order.
        """
        return (await self._store.get_many([path]))[0] is not None

    async def _is_abandoned(self, seen: Seen[Node]) -> bool:
        """Whether really nobody is at the node. Only of a node just being made the lock may not be known yet."""
        if seen.record.state is not NodeState.BUILDING:
            return True
        is_there = await self._is_there(seen.path)
        is_same = self._view.nodes.get(seen.record.id) is seen
        return is_there and is_same and not self._view.is_node_locked(seen.record.id)

    # -- nodes ------------------------------------------------------------------------------------------------------

    async def _delete(self, node_id: NodeId) -> None:
        """Delete an abandoned node; when its cloud refuses, look again after a growing while."""
        seen = self._view.nodes.get(node_id)
        if seen is None or not await self._is_abandoned(seen):
            return
        node, provider = seen.record, self._providers[seen.record.provider or ""]
        log_ = log.bind(node_id=node_id, provider=provider.name, external_id=node.external_id)
        started = asyncio.get_running_loop().time()
        try:
            if not await delete_node(self._store, self._view, self._clock, provider, node_id):
                return
        except (DriverError, TimeoutError) as error:
            log_.warning("delete_failed", detail=str(error), retry_in_s=self._retry_later(node_id))
            provider.tell(node.pool, node.allocated_to, f"deletion of node {node_id} failed: {error}")
            return
        self._failures.pop(node_id, None)
        self._not_before.pop(node_id, None)
        log_.info("node_deleted", was=node.state.value, took_s=round(asyncio.get_running_loop().time() - started, 3))

    async def _offer(self, node_id: NodeId) -> None:
        """Let the next who works on its request go on with the launch of a node."""
        seen = self._view.nodes.get(node_id)
        if seen is None or not await self._is_abandoned(seen):
            return
        self._view.interrupted[node_id] = seen.version
        provider = self._providers[seen.record.provider or ""]
        log.info("launch_interrupted", node_id=node_id, provider=provider.name, external_id=seen.record.external_id)
        provider.changed()

    async def _remove_debris(self, node_id: NodeId) -> None:
        """Remove a record that belongs to no provider: a lock brought a deleted node back."""
        seen = self._view.nodes.get(node_id)
        if seen is None:
            return  # another launcher was faster
        try:
            lock = await self._store.lock(paths.node_lock(node_id))
        except (LockBusyError, RecordGoneError):
            return
        await lock.release()
        log.info("debris_removed", path=seen.path)
        await self._store.delete_tree(seen.path)

    async def _deallocate(self, node_id: NodeId) -> None:
        """Free a ready node whose request is gone, asking the store itself whether it is."""
        seen = self._view.nodes.get(node_id)
        if seen is None or seen.record.allocated_to is None:
            return
        request_id = seen.record.allocated_to
        if await self._is_there(paths.request(request_id)) or self._view.is_node_locked(node_id):
            return
        try:
            lock = await self._store.lock(paths.node_lock(node_id))
        except (LockBusyError, RecordGoneError):
            return
        try:
            # In one step: who sees it free must not find it locked any more.
            free = Put(seen.path, seen.record.deallocated().to_bytes(), seen.version)
            await self._store.commit([free, ReleaseLock(lock)], under=(lock,))
            log.info("node_deallocated", node_id=node_id, request_id=request_id)
        except (VersionConflictError, RecordGoneError):
            pass  # it changed under us; what it is now is looked at when the change is seen
        finally:
            await lock.release()

    # -- requests ---------------------------------------------------------------------------------------------------

    async def _reset_lost_request(self, request_id: RequestId) -> None:
        """Take a pending request whose launcher is gone back to requested, its unused nodes freed."""
        is_there = await self._is_there(paths.request(request_id))
        if not is_there or self._view.is_request_locked(request_id):
            return
        try:
            lock = await self._store.lock(paths.request_lock(request_id))
        except (LockBusyError, RecordGoneError):
            return
        try:
            current = self._view.requests.get(request_id)
            if current is None or current.record.state is not RequestState.PENDING:
                return
            for node in self._view.nodes_allocated_to(request_id):
                if not await self._take_back(node):
                    self._reset_later(request_id)
                    return
            reset = current.record.into(RequestState.REQUESTED, self._clock.now(), nodes=())
            await self._store.put(current.path, reset.to_bytes(), version=current.version, under=(lock,))
            log.info("lost_request_reset", request_id=request_id)
        except (VersionConflictError, RecordGoneError):
            pass  # it changed under us; what it is now is looked at when the change is seen
        finally:
            await lock.release()

    def _reset_later(self, request_id: RequestId) -> None:
        """Somebody just looks at one of its nodes; reset now, the request would keep that node from everybody."""
        loop = asyncio.get_running_loop()
        self._not_before[request_id] = loop.time() + FIRST_BACKOFF_S
        loop.call_later(FIRST_BACKOFF_S, self._look_at_request, request_id)

    async def _take_back(self, seen: Seen[Node]) -> bool:
        """Free one node of a lost request, if nobody else has it; those still building are deleted as abandoned."""
        node = seen.record
        if node.state is NodeState.INIT:
            node = node.into(NodeState.DELETING, self._clock.now())
        elif node.state is not NodeState.READY:
            return True
        return await rewrite_node(self._store, seen, node.deallocated())

    async def _remove_lock_dir(self, request_id: RequestId) -> None:
        with suppress(RecordGoneError, NotEmptyError):
            await self._store.delete(paths.request_lock(request_id))

    # -- what only time tells ---------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        self._look_at_everything()
        steps = (
            self._old_nodes, self._orphans, self._unserved_nodes, self._stale_locks, self._empty_nodes, self._leaks,
            self._old_questions,
        )  # fmt: skip
        for step in steps:
            try:
                await step()
            except (StoreError, DriverError, TimeoutError) as error:
                log.warning("sweep_failed", step=step.__name__.strip("_"), detail=str(error))
            except Exception:
                log.exception("sweep_failed", step=step.__name__.strip("_"))

    async def _old_nodes(self) -> None:
        """Delete nodes that are ready, or on hold, for longer than configured."""
        now = self._clock.now()
        for provider in list(self._providers):
            for seen in self._view.nodes_of(provider):
                limit = self._age_limit(seen.record)
                if limit and now - seen.record.state_time > limit and not self._view.is_node_locked(seen.record.id):
                    log.info("node_too_old", node_id=seen.record.id, state=seen.record.state.value, limit_s=limit)
                    await discard_node(self._store, self._view, seen, self._clock)

    def _age_limit(self, node: Node) -> float:
        """Seconds the node may stay in its state; 0: for ever."""
        if node.is_idle:
            limits = [self.ages.max_ready_age.get(label, 0) for label in node.type]
            return min((limit for limit in limits if limit > 0), default=0)
        if node.state is NodeState.HOLD:
            limits = [float(node.hold_expiration or 0), self.ages.max_hold_age]
            return min((limit for limit in limits if limit > 0), default=0)
        return 0

    async def _orphans(self) -> None:
        """Delete ``init`` nodes whose maker died between create and lock."""
        now = self._clock.now()
        for provider in list(self._providers):
            for seen in self._view.nodes_of(provider):
                node = seen.record
                is_old = node.state is NodeState.INIT and now - seen.modified_at > ORPHAN_S
                if is_old and not self._view.is_node_locked(node.id):
                    log.info("orphan_found", node_id=node.id)
                    await discard_node(self._store, self._view, seen, self._clock)

    async def _unserved_nodes(self) -> None:
        """Delete idle nodes that no pool hands out any more: their pool or label was taken out of the configuration."""
        for provider in list(self._providers):
            for seen in self._view.nodes_of(provider):
                node = seen.record
                if node.is_idle and not self._is_served(node) and not self._view.is_node_locked(node.id):
                    log.info("unserved_node_found", node_id=node.id, pool=node.pool, labels=list(node.type))
                    await discard_node(self._store, self._view, seen, self._clock)

    async def _old_questions(self) -> None:
        """Remove what an asker that died left."""
        names = await self._store.children(paths.QUESTIONS)
        for entry in await self._store.get_many([f"{paths.QUESTIONS}/{name}" for name in names]):
            if entry is not None and self._clock.now() - entry.stat.created_at > STALE_QUESTION_S:
                await self._store.delete_tree(entry.path)

    async def _stale_locks(self) -> None:
        now = self._clock.now()
        for request_id, made_at in list(self._view.request_lock_dirs.items()):
            if request_id not in self._view.requests and now - made_at > STALE_LOCK_S:
                await self._store.delete_tree(paths.request_lock(request_id))

    async def _empty_nodes(self) -> None:
        """Remove node znodes without data that were so already at the last sweep: a lock brought them back."""
        empty = {
            path
            for path, is_empty in self._view.unreadable.items()
            if is_empty and (node_id := paths.node_id_at(path)) and not self._view.is_node_locked(node_id)
        }
        for path in sorted(empty & self._empty):
            log.info("empty_node_removed", path=path)
            await self._store.delete_tree(path)
        self._empty = empty

    async def _leaks(self) -> None:
        """Delete what carries a provider's name but a node id without a record, seen so twice in a row."""
        for provider in list(self._providers.values()):
            try:
                async with provider.using() as driver, asyncio.timeout(DELETE_TIMEOUT_S):
                    leaks = await find_leaks(driver, provider.name, self._view.node)
            except (DriverError, TimeoutError) as error:
                log.warning("leaks_unknown", provider=provider.name, detail=str(error))
                continue
            if not self._view.is_warm:
                return
            before = self._suspects.get(provider.name, set())
            self._suspects[provider.name] = {leak.key for leak in leaks}
            for leak in leaks:
                if leak.key in before:
                    self._begin(
                        f"{provider.name} {leak.kind} {leak.external_id}", partial(_delete_leak, provider, leak)
                    )


async def _delete_leak(provider: ProviderRuntime, leak: Leak) -> None:
    """Delete one; one that can't be deleted is tried again with the next sweep."""
    log_ = log.bind(provider=provider.name, kind=leak.kind, external_id=leak.external_id, node_id=leak.node_id)
    try:
        async with provider.using() as driver, asyncio.timeout(DELETE_TIMEOUT_S):
            await delete_leak(driver, leak)
    except (DriverError, TimeoutError) as error:
        log_.warning("leak_not_deleted", detail=str(error))
    else:
        log_.warning("leak_deleted", detail=leak.detail or None)
        provider.invalidate()
