"""What happens next to a node, in words: what its state and its pool say, and whoever runs the pool.

What does *not* belong here: how a request stands (explain.py), and what is done about a node (engine/cleanup/).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from nodelaunch.engine.reporting.report import LauncherReport
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.records import Node, PoolRegistration
from nodelaunch.protocol.registrations import process_names
from nodelaunch.protocol.states import NodeState

PURPOSES = {
    **dict.fromkeys(NodeState, "it is for no request"),
    NodeState.READY: "it is idle: the next request that it fits gets it",
    NodeState.HOLD: "it is held: nobody gets it, and nobody deletes it before the hold ends",
    NodeState.USED: "it is deleted as soon as nobody has its lock",
    NodeState.DELETING: "it is being deleted",
}


def what_next(view: ClusterView, node: Node, reports: Collection[LauncherReport]) -> list[str]:
    """Lines on what happens next to a node. *reports*: of the launchers that answer."""
    pools = [seen.record for seen in view.pools.values() if _is_pool_of(node, seen.record)]
    deleters = _deleters(view, node, reports)
    if node.is_idle and not view.is_node_locked(node.id):
        return [*_idle(view, node, pools, deleters), *_nobody(node, deleters)]
    lines = [] if node.allocated_to else [PURPOSES[node.state]]
    lines += [
        f"its pool takes no new requests: {pause}" for pause in pauses_of(view, node.provider or "", node.pool or "")
    ]
    if not pools and deleters:
        lines.append(f"no launcher serves its pool now; {', '.join(deleters)} deletes it when nobody has it any more")
    return [*lines, *_nobody(node, deleters)]


def _idle(view: ClusterView, node: Node, pools: Collection[PoolRegistration], deleters: Collection[str]) -> list[str]:
    """What becomes of a node that is to be had."""
    pauses = pauses_of(view, node.provider or "", node.pool or "")
    if view.is_draining(node.provider or "", node.pool or ""):
        return [f"it is deleted, as its pool is drained: {'; '.join(pauses)}"]
    if pools and not any(set(node.type) & set(pool.supported_labels) for pool in pools):
        return ["it is deleted, as its pool does not offer its label any more"]
    if pools and pauses:
        return [f"no request gets it while its pool is paused: {'; '.join(pauses)}"]
    if pools:
        return [PURPOSES[NodeState.READY]]
    if (node.provider, node.pool) in view.known_pools:
        return ["no request gets it: its pool is away, and is waited for, for two minutes; without it, it is deleted"]
    by = f" by {', '.join(deleters)}" if deleters else ""
    return [f"no request gets it: no launcher serves its pool any more; it is deleted{by}"] if deleters else []


def _nobody(node: Node, deleters: Collection[str]) -> Iterator[str]:
    """Where there is nobody to delete it."""
    if deleters:
        return
    yield f"no launcher has provider {node.provider}: nobody gets the node, and it is deleted when one has it again"
    yield f"if it is gone for good, delete the instances in the cloud, then: nodelaunch erase {node.provider}"


def _is_pool_of(node: Node, pool: PoolRegistration) -> bool:
    return (pool.provider_name, pool.name) == (node.provider, node.pool)


def pauses_of(view: ClusterView, provider: str, pool: str) -> list[str]:
    """By which everybody who serves a pool is paused; none where somebody is not."""
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
    """What the launchers are called that delete nodes of the provider, as far as is known."""
    called = process_names(seen.record for seen in view.presences.values())
    found = {
        called.get(peer.launcher, seen.record.hostname)
        for peer, seen in zip(view.peers, view.pools.values(), strict=True)
        if peer.provider == node.provider
    }
    found |= {called.get(report.id, report.id) for report in reports if node.provider in report.providers}
    return sorted(found)
