"""What a pool has to give: its room and its provider's, idle nodes, machines, a tenant's share; and who its peers are.

All is taken from the view, the provider's state and the reservations as they are at the moment; nothing is kept and
nothing is waited for. What does *not* belong here: what is decided on it (protocol/triage.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container

from nodelaunch.engine.holding import PoolContext
from nodelaunch.protocol.driver import SupportsInventory
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.triage import IdleNode, Peer, Tenant

ON_THE_WAY_OUT = frozenset({NodeState.USED, NodeState.DELETING, NodeState.DELETED, NodeState.FAILED, NodeState.ABORTED})


def peers(ctx: PoolContext) -> list[Peer]:
    """All registered pools, our own among them."""
    return [
        Peer(r.id or "", r.provider_name or "", r.priority, r.paused, frozenset(r.supported_labels))
        for r in (seen.record for seen in ctx.view.pools.values())
    ]


def ceiling(ctx: PoolContext) -> Limits:
    """What the pool could give at most, if all that is ours went."""
    limits = ctx.pool.limits()
    if ctx.pool.ignores_provider_quota:
        return limits
    return limits.tightest(ctx.provider.limits.minus(ctx.provider.foreign))


def room(ctx: PoolContext) -> Limits:
    """What a launch in the pool can take now."""
    return pool_room(ctx).tightest(provider_room(ctx))


def pool_room(ctx: PoolContext) -> Limits:
    """What the pool can give now, with all that is recorded or reserved taken off."""
    provider, pool = ctx.provider.name, ctx.pool.name
    used = ctx.view.used(provider, pool) + ctx.reservations.of_pool(provider, pool)
    return ctx.pool.limits().minus(used)


def provider_room(ctx: PoolContext) -> Limits:
    """What the provider can give now to all its pools; nothing while it refuses."""
    provider = ctx.provider
    if provider.is_refused:
        return Limits({INSTANCES: 0})
    if ctx.pool.ignores_provider_quota:
        return NO_LIMITS
    taken = provider.unmanaged + ctx.view.used(provider.name)
    return provider.limits.minus(taken + ctx.reservations.of_provider(provider.name))


def tenant(ctx: PoolContext, name: str, limits: Limits) -> Tenant:
    """What the tenant has left of its *limits*."""
    used = ctx.view.used_by_tenant(name) + ctx.reservations.of_tenant(name)
    return Tenant(limits, limits.minus(used))


def idle_nodes(ctx: PoolContext, *, but_not: Container[NodeId]) -> list[IdleNode]:
    """The pool's nodes that a request may be given, but for those."""
    is_together = ctx.pool.zoning == "together"
    return [
        IdleNode(
            node.id, frozenset(node.type), node.usage or NOTHING, node.state_time, node.az if is_together else None
        )
        for node in (seen.record for seen in ctx.view.nodes_of(ctx.provider.name))
        if node.is_idle
        and node.pool == ctx.pool.name
        and node.id not in but_not
        and not ctx.view.is_node_locked(node.id)
    ]


def begun(ctx: PoolContext) -> dict[RequestId, list[str]]:
    """By request, labels of nodes of this pool whose launch broke off."""
    found: defaultdict[RequestId, list[str]] = defaultdict(list)
    for node in ctx.view.interrupted_nodes():
        is_here = (node.provider, node.pool) == (ctx.provider.name, ctx.pool.name)
        if is_here and node.allocated_to and len(node.type) == 1:
            found[RequestId(node.allocated_to)].append(node.type[0])
    return found


def going(ctx: PoolContext, and_also: Container[NodeId]) -> Usage:
    """What the pool's nodes give back that are being deleted, or soon will be, as those *and_also*."""
    return Usage.total(
        seen.record.usage or NOTHING
        for seen in ctx.view.nodes_of(ctx.provider.name)
        if seen.record.pool == ctx.pool.name and (seen.record.state in ON_THE_WAY_OUT or seen.record.id in and_also)
    )


def machines(ctx: PoolContext) -> list[frozenset[str]]:
    """The labels of each machine the pool has by its configuration, where its driver has such."""
    driver = ctx.driver
    if not isinstance(driver, SupportsInventory):
        return []
    return [frozenset(machine.labels) for machine in driver.machines() if machine.pool == ctx.pool.name]
