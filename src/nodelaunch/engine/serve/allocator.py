"""Gives capacity to accepted requests that wait, and to the first request that waits to be accepted.

Waiters get free capacity in the order of their requests. Idle nodes that use the needed capacity are deleted, no more
of them than needed.
"""

from __future__ import annotations

from collections.abc import Callable

from nodelaunch.clock import Clock
from nodelaunch.decisions import machine as m
from nodelaunch.decisions.triage import PoolKey, nodes_to_evict, reasons_to_decline
from nodelaunch.engine.limits.waiting import CapacityQueue, Waiter, out_of_turn
from nodelaunch.engine.nodelocks import discard_node
from nodelaunch.engine.serve.facts import EngineFacts, OwnPools
from nodelaunch.engine.serve.pool import Pool
from nodelaunch.engine.view import ClusterView
from nodelaunch.engine.view.sums import ON_THE_WAY_OUT
from nodelaunch.errors import StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import NO_LIMITS, NOTHING, Usage
from nodelaunch.protocol.store import Store

log: Logger = get_logger(__name__)


class CapacityAllocator:
    """Gives capacity to waiters. *on_done* is called with the pool when an idle node was discarded, or could not be."""

    def __init__(
        self,
        store: Store,
        view: ClusterView,
        clock: Clock,
        own: OwnPools,
        facts: EngineFacts,
        queue: CapacityQueue,
        on_done: Callable[[PoolKey], None],
    ) -> None:
        self._store = store
        self._view = view
        self._clock = clock
        self._own = own
        self._facts = facts
        self._queue = queue
        self._on_done = on_done
        self._evicting: dict[NodeId, PoolKey] = {}

    def serve_waiters(self) -> None:
        """Give capacity to accepted requests that wait for it; fail the requests that can never get it."""
        facts = self._facts
        self._queue.grant(facts.books, self._tenant_allows)
        self._hand_back_out_of_turn()
        for waiter in list(self._queue.waiters):
            view = self._own.views.get(waiter.key)
            if view is None:
                continue
            name = waiter.request.tenant_name
            tenant = facts.tenant(name) if name is not None else None
            ceiling = tenant.ceiling if tenant is not None else NO_LIMITS
            for reason in reasons_to_decline(waiter.request, view, ceiling, facts.now)[:1]:
                self._own.pools[waiter.key].post(waiter.request.id, m.Failed(reason))

    def _tenant_allows(self, waiter: Waiter, leaving: Usage = NOTHING) -> bool:
        """Return True if the tenant has free capacity by now: the leftovers of a refused launch count until they are
        deleted. *leaving*: usage that does not count."""
        name = waiter.request.tenant_name
        limits = self._facts.books.tenants.get(name) if name is not None else None
        if name is None or limits is None:
            return True
        free = self._facts.books.tenant_free(name, limits)
        wanted = self._queue.need_until(waiter)
        return all(free[resource] + leaving[resource] >= wanted[resource] for resource in waiter.need)

    def _hand_back_out_of_turn(self) -> None:
        """If several launchers serve a full tenant, hand back all but its first request (waiting.py)."""
        if self._facts.launchers < 2:
            return
        for waiter in list(self._queue.waiters):
            nodes = (seen.record for seen in self._view.nodes_allocated_to(waiter.request.id))
            leaving = Usage.total(node.usage or NOTHING for node in nodes if node.state in ON_THE_WAY_OUT)
            if self._tenant_allows(waiter, leaving):
                continue
            first = out_of_turn(waiter, (seen.record for seen in self._view.pending_requests.values()))
            if first is not None:
                pool = self._own.pools[waiter.key]
                pool.ctx.report(waiter.request, f"handed back: its tenant is full, and request {first} comes first")
                pool.post(waiter.request.id, m.Withdrawn())

    def evict_idle_nodes(self, pool: Pool, need: Usage | None) -> None:
        """Discard idle nodes of *pool* for the first accepted request that waits, else for *need*."""
        key = pool.key
        first = self._queue.first(key)
        need = first.need if first is not None else need
        can_go = self._own.views[key].can_launch and not pool.ctx.provider.refusals.is_active and pool.may_start
        if need is None or not can_go:
            return
        freeing = self._view.leaving(*key) + Usage.total(
            seen.record.usage or NOTHING
            for node_id, of in self._evicting.items()
            if of == key and (seen := self._view.nodes.get(node_id)) is not None and seen.record.is_idle
        )
        books = self._facts.books
        free = books.pool_free(key).tightest(books.provider_free(key))
        for node_id in nodes_to_evict(need, free, freeing, self._facts.idle(key, frozenset()).all()):
            self._evicting[node_id] = key
            self._facts.taken.add(node_id)
            pool.spawn(self._evict(node_id, key), f"evict {node_id}")

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
