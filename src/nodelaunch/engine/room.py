"""Makes room for a request that waits: lets idle nodes of its pool go, no more of them than that takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from nodelaunch.clock import Clock
from nodelaunch.engine.facts import EngineFacts, OwnPools
from nodelaunch.engine.holding import discard_node
from nodelaunch.engine.pool import Pool
from nodelaunch.engine.view import ClusterView
from nodelaunch.engine.waiting import CapacityQueue
from nodelaunch.errors import StoreError
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import NOTHING, Usage
from nodelaunch.protocol.store import Store
from nodelaunch.protocol.triage import PoolKey, make_room

log = structlog.get_logger(__name__)


class Evictor:
    """*on_done* is called with the pool when an idle node was let go, or could not be."""

    def __init__(
        self,
        store: Store,
        view: ClusterView,
        clock: Clock,
        own_pools: OwnPools,
        facts: EngineFacts,
        queue: CapacityQueue,
        on_done: Callable[[PoolKey], None],
    ) -> None:
        self._store = store
        self._view = view
        self._clock = clock
        self._own_pools = own_pools
        self._facts = facts
        self._queue = queue
        self._on_done = on_done
        self._evicting: dict[NodeId, PoolKey] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def make_room(self, pool: Pool, need: Usage | None) -> None:
        """Let idle nodes of *pool* go for the first accepted request that waits, else for *need*."""
        key = pool.key
        first = self._queue.first(key)
        need = first.need if first is not None else need
        if need is None or not self._own_pools.views[key].can_launch or pool.ctx.provider.is_refused:
            return
        freeing = self._view.leaving(*key) + Usage.total(
            seen.record.usage or NOTHING
            for node_id, of in self._evicting.items()
            if of == key and (seen := self._view.nodes.get(node_id)) is not None and seen.record.is_idle
        )
        room = self._facts.pool_room(key).tightest(self._facts.provider_room(key))
        for node_id in make_room(need, room, freeing, self._facts.idle(key, frozenset()).all()):
            self._evicting[node_id] = key
            self._facts.taken.add(node_id)
            task = pool.spawn(self._evict(node_id, key), f"evict {node_id}")
            if task is not None:
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _evict(self, node_id: NodeId, key: PoolKey) -> None:
        try:
            seen = self._view.nodes.get(node_id)
            if seen is not None and await discard_node(self._store, self._view, seen, self._clock):
                log.info("idle_node_evicted", provider=key[0], pool=key[1], node_id=node_id)
        except StoreError as error:
            log.info("evict_failed", node_id=node_id, detail=str(error))
        finally:
            del self._evicting[node_id]
            self._facts.taken.discard(node_id)
            self._on_done(key)
