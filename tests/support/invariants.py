"""Checks that all indexes of the view equal those computed from all its records.

What does *not* belong here: whether the records are right (tests/fuzz/rules.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import isclose
from typing import Any

from nodelaunch.engine.view import ON_THE_WAY_OUT, ClusterView
from nodelaunch.engine.view.sums import Sums, taken, tenant_of
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState, RequestState


def check_invariants(view: ClusterView) -> None:
    """Raises: AssertionError when an index says anything but what its records do."""
    _check_nodes(view)
    _check_sums(view)
    _check_idle(view)
    _check_requests(view)
    _check_pools(view)
    _check_images(view)


def _check_nodes(view: ClusterView) -> None:
    by_provider: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
    by_request: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
    for node_id, seen in view.nodes.items():
        assert (seen.record.id, seen.path) == (node_id, paths.node(node_id))
        by_provider[seen.record.provider][node_id] = seen
        if seen.record.allocated_to:
            by_request[seen.record.allocated_to][node_id] = seen
    by_instance: defaultdict[Any, set[str]] = defaultdict(set)
    for node_id, seen in view.nodes.items():
        if seen.record.provider is not None and seen.record.external_id and isinstance(seen.record.external_id, str):
            by_instance[seen.record.provider, seen.record.external_id].add(node_id)
    assert {key: set(nodes) for key, nodes in view._instances._nodes.items()} == by_instance
    assert view._of_provider == by_provider
    assert view._of_request == by_request
    being_made: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
    for node_id, seen in view.nodes.items():
        if seen.record.state in (NodeState.INIT, NodeState.BUILDING):
            being_made[seen.record.provider][node_id] = seen
    assert view._being_made == being_made
    assert all(view._node_contenders.values()), "nobody contends for a lock without contenders"
    assert view.discarded | view.interrupted.keys() <= view.nodes.keys()
    assert all(view.is_interrupted(view.nodes[node_id]) for node_id in view.interrupted)


def _check_sums(view: ClusterView) -> None:
    nodes = [seen.record for seen in view.nodes.values()]
    owned = [node for node in nodes if node.provider]
    leaving = [node for node in nodes if node.state in ON_THE_WAY_OUT]
    _check_sum(view._sums.of_provider, ((node.provider, taken(node)) for node in owned))
    _check_sum(view._sums.of_pool, ((_pool(node), taken(node)) for node in owned))
    _check_sum(view._sums.of_tenant, ((tenant_of(node), taken(node)) for node in nodes if tenant_of(node)))
    _check_sum(view._sums.leaving, ((_pool(node), node.resources or {}) for node in leaving))


def _pool(node: Node) -> tuple[str, str]:
    return (node.provider or "", node.pool or "")


def _check_sum(sums: Sums[Any], amounts: Iterable[tuple[Any, Mapping[str, float]]]) -> None:
    wanted: defaultdict[Any, Counter[str]] = defaultdict(Counter)
    for key, each in amounts:
        wanted[key].update(each)  # type: ignore[arg-type]
    assert set(sums._sums) == set(sums._counts) == set(wanted)
    assert set(sums._cached) <= set(wanted)
    for key, expected in wanted.items():
        usage = sums.of(key)
        names = {*usage, *expected}
        assert all(isclose(usage[name], expected[name], abs_tol=1e-5) for name in names), (key, usage, expected)


def _check_idle(view: ClusterView) -> None:
    places: defaultdict[Any, list[Any]] = defaultdict(list)
    idle = [seen for seen in view.nodes.values() if seen.record.is_idle]
    for seen in sorted(idle, key=lambda seen: (seen.record.state_time, seen.record.id)):
        labels = dict.fromkeys(seen.record.type) if seen.record.id not in view.idle._hidden else ()
        for label in (None, *labels):
            places[seen.record.provider, seen.record.pool, label].append(seen)
    assert {place: nodes.nodes for place, nodes in view.idle._places.items()} == places
    shares: defaultdict[Any, list[Any]] = defaultdict(list)
    for place, nodes in places.items():
        provider, pool, label = place
        allowed_on = view.idle._splits.get((provider, pool, None))
        for seen in nodes if allowed_on is not None and label is not None else ():
            allowed = allowed_on(seen.record)
            for tenant in (None,) if allowed is None else allowed:
                shares[place, tenant].append(seen)
    assert {share: nodes.nodes for share, nodes in view.idle._shares.items()} == shares
    assert view.idle._hidden <= {seen.record.id for seen in idle}
    assert view.idle_by_label == Counter(label for seen in idle for label in set(seen.record.type))


def _check_requests(view: ClusterView) -> None:
    for request_id, seen in view.requests.items():
        assert (seen.record.id, seen.path) == (request_id, paths.request(request_id))
    records = [seen.record for seen in view.requests.values()]
    assert view.open_requests == {
        request_id: seen for request_id, seen in view.requests.items() if seen.record.state is RequestState.REQUESTED
    }
    assert view.pending_requests == {
        request_id: seen for request_id, seen in view.requests.items() if seen.record.state is RequestState.PENDING
    }
    asked = [r for r in records if r.requestor == paths.MIN_READY_REQUESTOR and r.state is not RequestState.FAILED]
    assert view.stray_lock_dirs == {
        request_id: at for request_id, at in view.request_lock_dirs.items() if request_id not in view.requests
    }
    labels = {label for request in asked for label in request.node_types}
    assert view.min_ready_asked == {label: {r.id for r in asked if label in r.node_types} for label in labels}
    assert all(view._request_contenders.values()), "nobody contends for a lock without contenders"


def _check_pools(view: ClusterView) -> None:
    records = [seen.record for seen in view.pools.values()]
    assert [(peer.pool_id, peer.provider, peer.pool, peer.priority, peer.is_paused) for peer in view.peers] == [
        (r.id or "", r.provider_name or "", r.name or "", r.priority, r.paused) for r in records
    ]
    assert view.registered == {(r.provider_name or "", r.name or "") for r in records}
    by_label: defaultdict[str, list[Any]] = defaultdict(list)
    for peer, record in zip(view.peers, records, strict=True):
        assert peer.labels == frozenset(record.supported_labels)
        for label in peer.labels:
            by_label[label].append(peer)
    assert {label: list(peers) for label, peers in view.peers_by_label.items()} == by_label


def _check_images(view: ClusterView) -> None:
    newest, begun = dict(view._newest), dict(view._begun)
    view._newest.clear()
    view._begun.clear()
    assert {key: view.newest_upload(*key) for key in newest} == newest
    assert {key: view.image_begun_at(*key) for key in begun} == begun
