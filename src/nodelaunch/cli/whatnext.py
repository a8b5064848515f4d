"""Says what happens next to a node, from its state, its pool and the launchers that serve the pool."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from nodelaunch.engine.reporting.report import LauncherReport
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.records import Node, PoolRegistration
from nodelaunch.protocol.registrations import process_names
from nodelaunch.protocol.states import NodeState

PURPOSES = {
    **dict.fromkeys(NodeState, "no request uses the node"),
    NodeState.READY: "the node is idle: the next request for its label gets it",
    NodeState.HOLD: "the node is held: no request gets it, and no launcher deletes it before the hold ends",
    NodeState.USED: "the node is deleted as soon as its lock is released",
    NodeState.DELETING: "the node is being deleted",
}


def what_next(view: ClusterView, node: Node, reports: Collection[LauncherReport]) -> list[str]:
    """Return lines on what happens next to a node. *reports*: the reports of the launchers that answer."""
    pools = [seen.record for seen in view.pools.values() if _is_pool_of(node, seen.record)]
    deleters = _deleters(view, node, reports)
    if node.is_idle and not view.is_node_locked(node.id):
        return [*_idle(view, node, pools, deleters), *_nobody(node, deleters)]
    lines = [] if node.allocated_to else [PURPOSES[node.state]]
    lines += [
        f"its pool takes no new requests: {pause}" for pause in pauses_of(view, node.provider or "", node.pool or "")
    ]
    if not pools and deleters:
        lines.append(
            f"no launcher serves the pool now; {', '.join(deleters)} deletes the node when its lock is released"
        )
    return [*lines, *_nobody(node, deleters)]


def _idle(view: ClusterView, node: Node, pools: Collection[PoolRegistration], deleters: Collection[str]) -> list[str]:
    """Return what happens next to an idle node."""
    pauses = pauses_of(view, node.provider or "", node.pool or "")
    if view.is_draining(node.provider or "", node.pool or ""):
        return [f"the node is deleted because the pool is drained: {'; '.join(pauses)}"]
    if pools and not any(set(node.type) & set(pool.supported_labels) for pool in pools):
        return ["the node is deleted because the pool no longer offers its label"]
    if pools and pauses:
        return [f"no request gets the node while the pool is paused: {'; '.join(pauses)}"]
    if pools:
        return [PURPOSES[NodeState.READY]]
    if (node.provider, node.pool) in view.known_pools:
        return [
            "no request gets the node: the pool is not registered; after two minutes without it, the node is deleted"
        ]
    by = f" by {', '.join(deleters)}" if deleters else ""
    return (
        [f"no request gets the node: no launcher serves the pool any more; the node is deleted{by}"] if deleters else []
    )


def _nobody(node: Node, deleters: Collection[str]) -> Iterator[str]:
    """Return what happens next to a node that no running launcher can delete."""
    if deleters:
        return
    who = f"no launcher has provider {node.provider}"
    yield f"{who}: no request gets the node; the first launcher with the provider deletes it"
    yield f"if the provider no longer exists, delete its instances in the cloud, then: nodelaunch erase {node.provider}"


def _is_pool_of(node: Node, pool: PoolRegistration) -> bool:
    return (pool.provider_name, pool.name) == (node.provider, node.pool)


def pauses_of(view: ClusterView, provider: str, pool: str) -> list[str]:
    """Return the pauses of all launchers that serve a pool; empty if one of them is not paused."""
    peers = [peer for peer in view.peers if (peer.provider, peer.pool) == (provider, pool)]
    hostnames = {seen.record.id: seen.record.hostname for seen in view.presences.values()}
    found: dict[str, None] = {}
    for peer in peers:
        launcher = (hostnames.get(peer.launcher, ""), peer.launcher)
        said = view.pauses_of(provider, pool, *launcher) if peer.launcher else ()
        if not said:
            return []
        found.update(dict.fromkeys(map(str, said)))
    return list(found) if peers else list(map(str, view.pauses_of(provider, pool)))


def _deleters(view: ClusterView, node: Node, reports: Collection[LauncherReport]) -> list[str]:
    """Return the names of the launchers that delete nodes of the provider, as far as is known."""
    called = process_names(seen.record for seen in view.presences.values())
    found = {
        called.get(peer.launcher, seen.record.hostname)
        for peer, seen in zip(view.peers, view.pools.values(), strict=True)
        if peer.provider == node.provider
    }
    found |= {called.get(report.id, report.id) for report in reports if node.provider in report.providers}
    return sorted(found)
