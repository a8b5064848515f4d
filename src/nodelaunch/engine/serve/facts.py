"""The facts that the schedule decides on: the pools of this process, all registered pools, and the free capacity.

All facts are computed from the present view, providers and reservations. Facts that change rarely are kept until they
change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING

from nodelaunch.clock import Clock
from nodelaunch.decisions.triage import (
    Absentee,
    IdleNode,
    MachineView,
    PoolKey,
    PoolView,
    Tenant,
)
from nodelaunch.engine.limits.books import Books
from nodelaunch.engine.limits.reservations import Reservation, Reservations
from nodelaunch.engine.limits.waiting import CapacityQueue
from nodelaunch.engine.provider.hosts import HostRule, host_rule
from nodelaunch.engine.view import ClusterView, Versioned
from nodelaunch.protocol.access import LAUNCHER, Asker
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import INSTANCES, NOTHING, Limits
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.verdicts import Accept, Verdict

if TYPE_CHECKING:
    from nodelaunch.engine.serve.pool import Pool

MAX_LOOKED_AT = 256
"""Idle nodes that are looked at for one label, to fill a request from one zone."""


class OwnPools:
    """The pools of this process, as the schedule sees them.

    Invariants: ``views`` has the view of every pool; ``registered`` has the views of pools that may be given requests;
    the idle nodes of a pool are split in the view by its rule in ``_rules``.
    """

    def __init__(self, view: ClusterView) -> None:
        self.pools: dict[PoolKey, Pool] = {}
        self.views: dict[PoolKey, PoolView] = {}
        self.registered: dict[str, PoolView] = {}
        """Views by pool id."""
        self.generation: int = 0
        self.pauses: int = 0
        self._view = view
        self._peers: tuple[RegisteredPool, ...] = ()
        self._rules: dict[PoolKey, HostRule] = {}
        """Rules of pools with idle nodes that not every user of the pool may use."""

    def renew(self, key: PoolKey) -> bool:
        """Update the view of the pool. Return True if it changed."""
        pool = self.pools[key]
        self._split(key, host_rule(pool.ctx.generation, pool.ctx.pool.name))
        known, before = pool_view(pool), self.views.get(key)
        if known == before:
            return False
        self.views[key] = known
        if known.pool_id in self.registered:
            self.registered[known.pool_id] = known
        return True

    def forget(self, key: PoolKey) -> None:
        """Remove a pool that is not in this process any more."""
        del self.pools[key], self.views[key]
        self._split(key, None)

    def _split(self, key: PoolKey, rule: HostRule | None) -> None:
        if rule == self._rules.get(key):
            return
        if rule is None:
            del self._rules[key]
        else:
            self._rules[key] = rule
        self._view.split_idle(*key, rule.allowed_on if rule is not None else None)

    def find_registered(self) -> bool:
        """Find the pools that may be given requests. Return True if they changed."""
        registered = {
            view.pool_id: view for key, view in self.views.items() if view.takes_requests and self.pools[key].may_start
        }
        if registered.keys() == self.registered.keys():
            return False
        self.registered = registered
        self.generation += 1
        return True

    def find_peers(self) -> bool:
        """Find changes among all registered pools. Return True if they may matter to any request."""
        peers = self._view.peers
        if peers is self._peers:
            return False
        before, self._peers = self._peers, peers
        if {_offer(peer) for peer in before} != {_offer(peer) for peer in peers}:
            self.generation += 1
            return True
        if self._paused(before) != self._paused(peers):
            self.pauses += 1
            return True
        return False

    def _paused(self, peers: Sequence[RegisteredPool]) -> set[str]:
        """Return the paused pools that matter to decisions: this process's own matter only if launchers take turns."""
        ignored: Collection[str] = () if len(self._view.launchers) > 1 else self.registered
        return {peer.pool_id for peer in peers if peer.is_paused and peer.pool_id not in ignored}


def _offer(peer: RegisteredPool) -> tuple[str, str, int, frozenset[str], str, bool]:
    return (peer.pool_id, peer.provider, peer.priority, peer.labels, peer.launcher, peer.is_stopped)


def pool_view(pool: Pool) -> PoolView:
    """Return the view of *pool*, apart from its free capacity."""
    ctx = pool.ctx
    provider, config = ctx.provider, ctx.pool
    ceiling = config.limits()
    if not config.ignores_provider_quota:
        ceiling = ceiling.tightest(provider.cloud.limits.minus(provider.cloud.foreign))
    inventory = ctx.generation.inventory
    machines = inventory.machines() if inventory is not None else ()
    hosts = config.machine_tenants
    return PoolView(
        key=pool.key,
        pool_id=ctx.pool_id,
        priority=provider.config.pool_priority(config),
        labels=provider.label_views(config, ctx.driver),
        is_enabled=config.max_servers is None or config.max_servers > 0,
        can_launch=provider.can_launch,
        shares_provider_quota=not config.ignores_provider_quota,
        limits=config.limits(),
        ceiling=ceiling,
        machines=tuple(
            MachineView(frozenset(machine.labels), hosts.get(machine.identity[:3]))
            for machine in machines
            if machine.pool == config.name
        ),
        max_concurrency=provider.config.max_concurrency,
        down=provider.down,
        launches_down=provider.breakers.launches.why,
        allowed_tenants=config.tenants,
        pauses=pool.pauses,
    )


class EngineFacts:
    """The facts of one launcher. *on_decided* is called with each verdict."""

    def __init__(
        self,
        view: ClusterView,
        clock: Clock,
        own_pools: OwnPools,
        reservations: Reservations,
        queue: CapacityQueue,
        on_decided: Callable[[NodeRequest, PoolKey, Verdict], None],
    ) -> None:
        self.absent: list[Absentee] = []
        self.now: float = 0.0
        self.may_decline: bool = False
        self.taken: set[NodeId] = set()
        """Idle nodes that this launcher is about to claim or delete."""
        self.reserved: dict[RequestId, Reservation] = {}
        """Reservations of requests that were accepted in this pass."""
        self.decided = on_decided
        self.books: Books = Books(view, own_pools, reservations, queue)
        self._view = view
        self._clock = clock
        self._own_pools = own_pools
        self._reservations = reservations
        self._queue = queue

    def look(self, absent: Sequence[Absentee], *, may_decline: bool) -> None:
        """Read the clock, and compute facts that hold for a whole pass."""
        self.absent, self.now, self.may_decline = list(absent), self._clock.now(), may_decline

    # -- pools ------------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        return self._own_pools.generation

    @property
    def pauses(self) -> int:
        return self._own_pools.pauses

    @property
    def launchers(self) -> int:
        return len(self._view.launchers)

    @property
    def peers(self) -> Sequence[RegisteredPool]:
        return self._view.peers

    def peers_offering(self, label: str) -> Sequence[RegisteredPool]:
        return self._view.peers_by_label.get(label, ())

    @property
    def own(self) -> Mapping[str, PoolView]:
        return self._own_pools.registered

    def view(self, key: PoolKey) -> PoolView:
        return self._own_pools.views[key]

    # -- capacity ---------------------------------------------------------------------------------------------------

    def pool_left(self, key: PoolKey) -> Limits:
        left = self.books.pool_free(key)
        return left.minus(self._queue.need(key)) if self._queue.waiters else left

    def provider_left(self, key: PoolKey) -> Limits:
        left = self.books.provider_free(key)
        return left.minus(self._queue.need_of_provider(key[0])) if self._queue.waiters else left

    def is_doubtful(self, key: PoolKey, labels: Sequence[str]) -> bool:
        return self._own_pools.pools[key].ctx.provider.breakers.is_doubtful(key[1], labels)

    def used(self, key: PoolKey) -> float:
        return self._view.used(*key)[INSTANCES] + self._reservations.of_pool(key)[INSTANCES]

    def tenant(self, name: str) -> Tenant | None:
        limits = self.books.tenants.get(name)
        return None if limits is None else Tenant(limits, self.books.tenant_left(name, limits))

    def launching(self, provider: str) -> int:
        return self.books.launching(provider)

    # -- nodes ------------------------------------------------------------------------------------------------------

    def idle(self, key: PoolKey, kept: frozenset[NodeId], asker: Asker = LAUNCHER) -> PoolIdleNodes:
        pool = self._own_pools.pools[key]
        return PoolIdleNodes(self._view, pool, self.taken, kept, asker)

    def idle_count(self, key: PoolKey, label: str, asker: Asker) -> int:
        return sum(map(len, self._view.idle_nodes_for(*key, label, asker)))

    def has_idle(self, key: PoolKey) -> bool:
        return bool(self._view.idle_nodes(*key))

    def begun(self, request_id: RequestId, key: PoolKey) -> Sequence[str]:
        nodes = (seen.record for seen in self._view.interrupted_for(request_id))
        return [node.type[0] for node in nodes if (node.provider, node.pool) == key and len(node.type) == 1]

    # -- deciding ---------------------------------------------------------------------------------------------------

    def reserve(self, request: NodeRequest, key: PoolKey, verdict: Accept) -> None:
        labels = self._own_pools.views[key].labels
        needs = {slot: labels[label].need for slot, label in enumerate(request.node_types)}
        launches = {
            slot: need for slot, need in needs.items() if verdict.reuse[slot] is None and slot not in verdict.resumed
        }
        tenant = request.tenant_name if request.tenant_name in self.books.tenants else None
        launched = {request.node_types[slot] for slot in launches}
        self._own_pools.pools[key].ctx.provider.breakers.chosen(key[1], launched)
        self.reserved[request.id] = self._reservations.open(key, tenant, launches, needs)
        self.taken.update(node_id for node_id in verdict.reuse if node_id is not None)


class PoolIdleNodes:
    """The idle nodes of one pool that the *asker* can have now."""

    def __init__(
        self, view: ClusterView, pool: Pool, taken: set[NodeId], kept: frozenset[NodeId], asker: Asker
    ) -> None:
        self._view = view
        self._pool = pool
        self._taken = taken
        self._kept = kept
        self._asker = asker

    def first(self, label: str, count: int) -> Sequence[IdleNode]:
        everybodys, *own = self._view.idle_nodes_for(*self._pool.key, label, self._asker)
        candidates = merge(everybodys, *own, key=_ready_order) if any(own) else everybodys
        if not candidates:
            return ()
        ctx = self._pool.ctx
        has_zones = ctx.pool.zoning == "together"
        spreads = count > 1 and ctx.generation.inventory is not None
        found: list[IdleNode] = []
        in_zone: dict[str | None, int] = {}
        for seen in islice(candidates, MAX_LOOKED_AT + 4 * count):
            node = seen.record
            zone = node.az if has_zones else None
            if (in_zone.get(zone, 0) < count or spreads) and self._can_be_had(node.id):
                in_zone[zone] = in_zone.get(zone, 0) + 1
                found.append(idle_node(seen, zone, has_machine=spreads))
                if not has_zones and not spreads and len(found) == count:
                    break
        return found

    def _can_be_had(self, node_id: NodeId) -> bool:
        return node_id not in self._taken and node_id not in self._kept and not self._view.is_node_locked(node_id)

    def all(self) -> list[IdleNode]:
        """Return every idle node of the pool, regardless of who may use it."""
        nodes = self._view.idle_nodes(*self._pool.key)
        return [idle_node(seen, None) for seen in nodes if self._can_be_had(seen.record.id)]


def _ready_order(seen: Versioned[Node]) -> tuple[float, NodeId]:
    return (seen.record.state_time, seen.record.id)


def idle_node(seen: Versioned[Node], zone: str | None, *, has_machine: bool = False) -> IdleNode:
    node = seen.record
    machine = (node.hostname or node.interface_ip) if has_machine else None
    return IdleNode(node.id, frozenset(node.type), node.usage or NOTHING, node.state_time, zone, machine)
