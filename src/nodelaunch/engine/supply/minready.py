"""Keeps ``min-ready`` nodes of each label by writing node requests, as any other client would.

The requests are ephemeral: they vanish with this process. Of all launchers that would keep a label's nodes ready, only
the label's owner does, and all compute the same owner from their presences (`keeper_of`). Outstanding requests of any
launcher count, so that a change of owner duplicates none. Source: Nodepool 11, which counts ready nodes over all
providers.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from nodelaunch.clock import Clock
from nodelaunch.engine.nodelocks import rewrite_node
from nodelaunch.engine.serve.spare import SpareCapacity
from nodelaunch.engine.supply.retries import FIRST_BACKOFF_S, Retries
from nodelaunch.engine.view import (
    ClusterView,
    IdleNodeGone,
    IdleNodeSeen,
    MinReadyRequestChanged,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    PoolsChanged,
    PresencesChanged,
    ViewEvent,
    ViewSynced,
)
from nodelaunch.errors import RecordGoneError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import NodeRequest, keeper_of
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.store import SessionState, Store, Unsubscribe

log: Logger = get_logger(__name__)

SETTLE_S = 1.0
"""Seconds from the moment when a process becomes the owner of a label to its first request. Meanwhile launchers that
start together see each other and the last owner's requests, and nodes of deleted requests become idle."""

REQUEST_KEPT_S = 1.0
"""Seconds that an answered request stays. Zuul up to 12.1 caches requests with kazoo's TreeCache, which keeps a request
forever if it is deleted while the cache reads the change before; Nodepool looks at its answered requests once a second.
"""


@dataclass(frozen=True, slots=True)
class ReadyShortfall:
    """A label for which a launcher has fewer ready nodes than it has to keep."""

    label: str
    wanted: int
    ready: int = 0
    asked: int = 0
    """Nodes that are requested, or being launched."""
    why: tuple[str, ...] = ()
    """The pools' reasons: ``PROVIDER/POOL: reason``."""
    retry_at: float | None = None
    """The time when the missing nodes are requested again, in seconds since 1970."""
    lacks_room: bool = False
    """True if lack of capacity is the only reason: the missing nodes are requested as soon as capacity becomes free."""


class _TiedNodes:
    """Nodes of fulfilled requests that are still tied to them. *on_change*: called with the request when one changes.

    Changes of nodes are followed only while there are such nodes: otherwise no change of a node costs anything.
    """

    def __init__(self, view: ClusterView, on_change: Callable[[RequestId], None]) -> None:
        self._view = view
        self._on_change = on_change
        self._requests: dict[NodeId, RequestId] = {}
        self._unfollow: Unsubscribe | None = None

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._requests

    def add(self, node_id: NodeId, request_id: RequestId) -> None:
        self._requests[node_id] = request_id
        if self._unfollow is None:
            self._unfollow = self._view.subscribe(self._on_node, NodeSeen, NodeUnlocked, NodeRemoved)

    def discard(self, node_id: NodeId) -> None:
        self._requests.pop(node_id, None)
        if not self._requests:
            self.clear()

    def forget(self, request_id: RequestId) -> None:
        """Forget the nodes of a request that is gone."""
        for node_id in [node_id for node_id, other in self._requests.items() if other == request_id]:
            self.discard(node_id)

    def clear(self) -> None:
        self._requests.clear()
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    def _on_node(self, event: NodeSeen | NodeUnlocked | NodeRemoved) -> None:
        if event.id in self._requests:
            self._on_change(self._requests[event.id])


class MinReady:
    """Keeps min-ready nodes, once per launcher. Set the counts with `want` and `run` it."""

    def __init__(
        self, store: Store, view: ClusterView, clock: Clock, own_id: str, spare: SpareCapacity | None = None
    ) -> None:
        """*own_id*: the id under which this process is present. *spare*: the spare capacity of its pools."""
        self._store = store
        self._view = view
        self._clock = clock
        self._own_id = own_id
        self._wanted: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._mine: set[RequestId] = set()
        self._changed: set[RequestId] = set()
        """Requests to look at: they are new, or changed, or one of their nodes may be free now."""
        self._freeing = _TiedNodes(view, self._look_soon)
        self._answered: set[RequestId] = set()
        """Requests that are answered and still exist."""
        self._expired: set[RequestId] = set()
        """Answered requests that have existed for long enough."""
        self.retries: Retries = Retries(spare, self._wake.set)
        """Notified of capacity that becomes free."""
        self._pools = 0
        """How many pools are registered."""
        self._ours: dict[str, bool] = {}
        """True by label if this process keeps its nodes ready, as computed since a process last started or ended."""
        self._settles_at: dict[str, float] = {}
        """The time, by label and by the loop's clock, when this process starts to request its nodes."""

    def want(self, wanted: Mapping[str, int]) -> None:
        """Set the counts of nodes to keep ready. *wanted*: label → number of ready, unallocated nodes.

        Declined labels are requested again at once: the configuration has changed.
        """
        self._wanted = {label: count for label, count in wanted.items() if count > 0}
        self.retries.clear()
        self._wake.set()

    async def run(self) -> None:
        """Keep nodes ready until cancelled."""
        stops = [
            self._view.subscribe(self._on_news, IdleNodeSeen, IdleNodeGone, MinReadyRequestChanged),
            self._view.subscribe(self._on_processes, PresencesChanged, ViewSynced),
            self._view.subscribe(self._on_pools, PoolsChanged),
        ]
        self._ours.clear()
        self._settles_at.clear()
        self._look_at_all()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._pass()
        finally:
            for stop in stops:
                stop()
            self._freeing.clear()  # the next run looks at all requests

    def _on_news(self, event: ViewEvent) -> None:
        if isinstance(event, MinReadyRequestChanged) and event.id in self._mine:
            self._changed.add(event.id)
        if self._wanted or self._mine:
            self._wake.set()

    def _look_soon(self, request_id: RequestId) -> None:
        self._changed.add(request_id)
        self._wake.set()

    def _on_pools(self, _event: ViewEvent) -> None:
        """Retry declined labels, because a new pool may serve requests that all others declined."""
        known, self._pools = self._pools, len(self._view.pools)
        if self._pools > known:
            self.retries.clear()
            self._wake.set()

    def _on_processes(self, _event: ViewEvent) -> None:
        self._ours.clear()
        self._look_at_all()

    def _look_at_all(self) -> None:
        self._changed |= self._mine
        self._wake.set()

    async def _pass(self) -> None:
        if not self._view.is_synced or self._store.session.state is not SessionState.CONNECTED:
            return
        try:
            for request_id in sorted(self._changed):
                self._changed.discard(request_id)
                await self._collect(request_id)
            for request_id in sorted(self._expired):
                await self._take_off(request_id)
            self.retries.begin()
            for label, wanted in list(self._wanted.items()):
                if not self._is_ours(label):
                    continue
                missing = wanted - self._ready(label) - self._outstanding(label)
                if missing > 0 and self._may_ask(label):
                    for _ in range(missing):
                        await self._ask(label)
        except StoreError as error:
            log.info("min_ready_failed", detail=str(error))
            asyncio.get_running_loop().call_later(FIRST_BACKOFF_S, self._look_at_all)

    def _is_ours(self, label: str) -> bool:
        is_ours = self._ours.get(label)
        if is_ours is None:
            keeper = keeper_of(label, (seen.record for seen in self._view.presences.values()))
            is_ours = self._ours[label] = keeper is not None and keeper.id == self._own_id
            if not is_ours:
                self._settles_at.pop(label, None)
            elif label not in self._settles_at:
                loop = asyncio.get_running_loop()
                self._settles_at[label] = loop.time() + SETTLE_S
                loop.call_at(self._settles_at[label], self._wake.set)
        return is_ours

    def _ready(self, label: str) -> int:
        return self._view.idle_by_label.get(label, 0)

    def _outstanding(self, label: str) -> int:
        """Return the number of requested min-ready nodes, of any launcher, that are not idle yet."""
        asked = self._view.min_ready_asked.get(label, ())
        return sum(not self._has_been_answered(request_id) for request_id in asked)

    def _has_been_answered(self, request_id: RequestId) -> bool:
        """Return True if the request is fulfilled and no node is tied to it any more."""
        request = self._view.request(request_id)
        is_fulfilled = request is not None and request.state is RequestState.FULFILLED
        return is_fulfilled and not self._view.nodes_allocated_to(request_id)

    def _may_ask(self, label: str) -> bool:
        now = asyncio.get_running_loop().time()
        return now >= self._settles_at.get(label, now) and self.retries.may_try(label)

    async def _ask(self, label: str) -> None:
        now = self._clock.now()
        request = NodeRequest(
            id=RequestId(""),
            state_time=now,
            node_types=(label,),
            reuse=False,
            requestor=paths.MIN_READY_REQUESTOR,
            event_id=uuid.uuid4().hex,
        )
        where = paths.new_request(paths.MIN_READY_PRIORITY)
        entry = await self._store.create(where, request.to_bytes(), ephemeral=True, sequence=True)
        request_id = paths.request_id_at(entry.path) or RequestId("")
        self._mine.add(request_id)
        self._changed.add(request_id)  # its earlier changes were reported as another launcher's
        self._wake.set()
        write = log.debug if label in self.retries else log.info
        write("min_ready_requested", label=label, request_id=request_id)

    async def _collect(self, request_id: RequestId) -> None:
        """Check if one of this process's requests has an answer; if so, free its nodes and delete it a moment later.

        If it were deleted before, its nodes would count neither as requested nor as idle, and one more would be made.
        """
        if request_id not in self._mine or request_id in self._answered:
            return
        seen = self._view.requests.get(request_id)
        if seen is None:
            self._mine.discard(request_id)
            self._freeing.forget(request_id)
            return
        label = seen.record.node_types[0]
        if seen.record.state is RequestState.FULFILLED:
            if label in self.retries:
                log.info("min_ready_kept", label=label)
            self.retries.kept(label)
            if not await self._free_nodes(seen.record):
                return
        elif seen.record.state is RequestState.FAILED:
            self._declined(label, request_id)
        else:
            return
        self._answered.add(request_id)
        asyncio.get_running_loop().call_later(REQUEST_KEPT_S, self._expire, request_id)

    def _expire(self, request_id: RequestId) -> None:
        self._expired.add(request_id)
        self._wake.set()

    async def _take_off(self, request_id: RequestId) -> None:
        """Delete one of this process's requests that has had its answer for long enough."""
        with suppress(RecordGoneError):
            await self._store.delete(paths.request(request_id))
        self._mine.discard(request_id)
        self._expired.discard(request_id)
        self._answered.discard(request_id)

    async def _free_nodes(self, request: NodeRequest) -> bool:
        """Untie the request's nodes from it, so that any request may get them. Return True if that is done for all.

        This fails if the request is seen fulfilled before its node is seen ready, or if another process has the node.
        Then a change of the node, or of its lock, is reported; the report may come before the refusal.
        """
        for node_id in request.nodes:
            seen = self._view.nodes.get(node_id)
            if seen is None or seen.record.allocated_to != request.id:
                self._freeing.discard(node_id)
                continue
            self._freeing.add(node_id, request.id)
            if await rewrite_node(self._store, seen, seen.record.deallocated()):
                self._freeing.discard(node_id)
            else:
                log.debug("min_ready_node_not_freed", node_id=node_id)
        return not any(node_id in self._freeing for node_id in request.nodes)

    def _declined(self, label: str, request_id: RequestId) -> None:
        write = log.debug if label in self.retries else log.info
        delay = self.retries.declined(label, request_id)
        write("min_ready_declined", label=label, retry_in_s=delay, detail="further tries are logged at debug level")

    # -- reports ----------------------------------------------------------------------------------------------------

    def shortfalls(self) -> list[ReadyShortfall]:
        """Return the labels with fewer ready nodes than this process has to keep, and why."""
        if not self._view.is_synced:
            return []
        ours = [each for each in self._wanted.items() if self._ours.get(each[0])]
        return [self._shortfall(label, wanted) for label, wanted in ours if self._ready(label) < wanted]

    def _shortfall(self, label: str, wanted: int) -> ReadyShortfall:
        waiting = [
            request_id
            for request_id in sorted(self._view.min_ready_asked.get(label, ()))
            if not self._has_been_answered(request_id)
        ]
        why = self.retries.why_waits(waiting[0], label) if waiting else self.retries.why(label)
        left_s = None if waiting else self.retries.pause_left_s(label)
        retry_at = None if left_s is None else self._clock.now() + left_s
        return ReadyShortfall(
            label,
            wanted,
            self._ready(label),
            len(waiting),
            why,
            retry_at,
            not waiting and self.retries.lacks_capacity(label),
        )
