"""Repairs leftovers: abandoned nodes, lost requests, nodes kept too long, leaked instances, znodes without an owner.

Events drive most of the work: a node that is unlocked in a state that requires a holder, a pending request without a
lock. Deadlines drive the rest, so that no search goes through all records. Leaks and znodes without an owner make no
event and have no deadline; a search looks for them every `SWEEP_S`. An error in one step does not stop the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from nodelaunch.clock import Clock
from nodelaunch.engine.cleanup.abandoned import GRACE_S, AbandonedNodes
from nodelaunch.engine.cleanup.ages import ORPHAN_S, AgeLimits, OldNodes
from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.engine.cleanup.debris import STALE_LOCK_S, STALE_QUESTION_S, Debris
from nodelaunch.engine.cleanup.holds import HeldNodes
from nodelaunch.engine.cleanup.leaksearch import LeakSearch
from nodelaunch.engine.cleanup.lostrequests import LostRequests
from nodelaunch.engine.cleanup.queue import (
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    MAX_AT_ONCE,
    Key,
    NodeKey,
    RequestKey,
    WorkQueue,
)
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.engine.view import (
    ClusterView,
    IdleNodeSeen,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    PoolsChanged,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
    ViewEvent,
    ViewSynced,
)
from nodelaunch.errors import StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.store import SessionState, Store, Unsubscribe

log: Logger = get_logger(__name__)

SWEEP_S = 60.0
"""Seconds between searches for leftovers that make no event. Source: Nodepool 11, cleanup interval."""
MAX_DELETIONS = MAX_AT_ONCE
"""Deletions that run at once at one provider."""
SLACK_S = 0.05
"""Seconds added to a deadline of the wall clock, because the loop's timers may run ahead of that clock."""


class Sweeper:
    """The sweeper, one per launcher. `run` it."""

    def __init__(
        self,
        store: Store,
        view: ClusterView,
        clock: Clock,
        providers: Mapping[str, ProviderRuntime],
        ages: AgeLimits,
        is_served: Callable[[Node], bool] = lambda _node: True,
        own_id: str = "",
    ) -> None:
        """*providers*: the providers whose nodes this launcher can delete, as of now. *is_served*: returns True if some
        pool can still hand out the idle node. *own_id*: the id under which this process is present."""
        self.queue: WorkQueue = WorkQueue(lambda: store.session.state is SessionState.CONNECTED)
        self.queue.again = self._look_again
        self._wake = asyncio.Event()
        ctx = SweepContext(store, view, clock, providers, self.queue, self._wake.set, own_id)
        self.nodes: AbandonedNodes = AbandonedNodes(ctx)
        self.requests: LostRequests = LostRequests(ctx, self.nodes)
        self.old: OldNodes = OldNodes(ctx, ages, is_served)
        self.held: HeldNodes = HeldNodes(ctx)
        self.leaks: LeakSearch = LeakSearch(ctx, lambda: SWEEP_S)
        self._debris = Debris(ctx)
        self._ctx = ctx
        self._view = view
        self._locked_nodes = view.locked_nodes
        self._next_round = 0.0
        """The time of the next round, by the loop's clock."""
        self._pools_changed = True
        """True if idle nodes may have lost the pool that hands them out."""

    @property
    def ages(self) -> AgeLimits:
        return self.old.ages

    @ages.setter
    def ages(self, ages: AgeLimits) -> None:
        self.old.ages = ages
        self.old.refill()

    async def run(self) -> None:
        """Sweep until cancelled."""
        stops = self._subscribe()
        try:
            async with asyncio.TaskGroup() as group:
                self.queue.open(group)
                self.leaks.open(group)
                try:
                    await self._keep_sweeping()
                finally:
                    self.queue.close()
                    self.leaks.close()
        finally:
            for stop in stops:
                stop()

    def provider_started(self, name: str) -> None:
        """Note that nodes of provider *name* can be deleted from now on, and look for its leftovers."""
        if self._view.is_synced:
            for seen in self._view.nodes_of(name):
                self._look_at_node(seen.record.id)
        self._pools_changed = True
        self.leaks.begin(name)

    def sweep_soon(self) -> None:
        """Start the next round now: a change may have made new leftovers."""
        self._pools_changed = True
        self._next_round = 0.0
        self._wake.set()

    async def settled(self) -> None:
        """Wait until no started work runs."""
        await self.queue.settled()

    # -- events -----------------------------------------------------------------------------------------------------

    def _subscribe(self) -> list[Unsubscribe]:
        subscribe = self._view.subscribe
        return [
            subscribe(self._on_node, NodeSeen, NodeUnlocked),
            subscribe(self._on_request, RequestSeen, RequestUnlocked),
            subscribe(self._on_rare_event, NodeRemoved, RequestRemoved, IdleNodeSeen, PoolsChanged, ViewSynced),
        ]

    def _on_node(self, event: NodeSeen | NodeUnlocked) -> None:
        if event.id not in self._locked_nodes:
            self._look_at_unlocked(event.id)
        elif self.nodes.left:  # another process may have taken the lock
            self.nodes.look(event.id)

    def _on_request(self, event: RequestSeen | RequestUnlocked) -> None:
        self.requests.look(event.id)

    def _on_rare_event(self, event: ViewEvent) -> None:
        match event:
            case NodeRemoved(node_id, _):
                self.nodes.gone(node_id)
                self.old.deadlines.forget(node_id)
                self.held.forget(node_id)
            case RequestRemoved(request_id):
                self.requests.removed(request_id)
            case IdleNodeSeen(node_id):
                self.old.look_at_idle(node_id)
            case PoolsChanged():
                self._pools_changed = True
            case ViewSynced():
                self._look_at_everything()
            case _:
                pass

    def _look_at_everything(self) -> None:
        """Check everything once, because events may have been missed."""
        self.nodes.clear()
        self.old.deadlines.clear()
        self.held.forget_the_gone()
        for provider in (None, "", *self._ctx.providers):
            for seen in self._view.nodes_of(provider):
                self._look_at_node(seen.record.id)
        self.requests.look_at_all()
        self._pools_changed = True

    def _look_at_node(self, node_id: NodeId) -> None:
        if node_id in self._locked_nodes:
            self.nodes.look(node_id)
        else:
            self._look_at_unlocked(node_id)

    def _look_at_unlocked(self, node_id: NodeId) -> None:
        self.nodes.look(node_id)
        self.old.look(node_id)
        self.held.look(node_id)

    def _look_again(self, key: Key) -> None:
        """Look again at *key*: events were ignored during the work, and the known record may have been old."""
        if not self._view.is_synced:
            return
        if isinstance(key, NodeKey):
            self.nodes.look(key.node_id)
        elif isinstance(key, RequestKey):
            self.requests.look(key.request_id)

    # -- deadlines and rounds ---------------------------------------------------------------------------------------

    async def _keep_sweeping(self) -> None:
        loop = asyncio.get_running_loop()
        await self._view.synced()
        self._look_at_everything()
        while True:
            await self._view.synced()
            self._wake.clear()
            for node_id in self.nodes.graces.due(loop.time()):
                self.nodes.look(node_id)
            self.old.discard_due()
            if loop.time() >= self._next_round:
                self._next_round = loop.time() + SWEEP_S
                await self._round()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._wakes_at(loop.time())):
                    await self._wake.wait()

    async def _round(self) -> None:
        """Search for leftovers that make no event."""
        try:
            if self._pools_changed:
                self._pools_changed = False
                self.old.look_at_all_idle()
            await self._debris.remove()
        except StoreError as error:
            log.warning("sweep_failed", step="debris", detail=str(error))
        except Exception:
            log.exception("sweep_failed", step="debris")

    def _wakes_at(self, now: float) -> float:
        """Return the time of the next action, by the loop's clock. The wall clock may be set meanwhile, so it is read
        again at least with each round."""
        grace, age = self.nodes.graces.next, self.old.deadlines.next
        when = self._next_round
        if grace is not None:
            when = min(when, grace)
        if age is not None:
            when = min(when, now + max(0.0, age - self._ctx.clock.now()) + SLACK_S)
        return when


__all__ = [
    "FIRST_BACKOFF_S", "GRACE_S", "LAST_BACKOFF_S", "MAX_DELETIONS", "ORPHAN_S", "STALE_LOCK_S", "STALE_QUESTION_S",
    "SWEEP_S", "AgeLimits", "Sweeper",
]  # fmt: skip
