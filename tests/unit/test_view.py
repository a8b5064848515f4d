"""Notifications of the view: their receivers, and their times."""

from __future__ import annotations

import pytest

from nodelaunch.engine.view import (
    ClusterView,
    IdleNodeGone,
    IdleNodeSeen,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    PoolsChanged,
    RequestSeen,
    ViewEvent,
    ViewStale,
    ViewSynced,
    open_view,
)
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest, PoolRegistration, Presence
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Entry, Put, Stat
from nodelaunch.store.embedded.store import EmbeddedStore
from support.invariants import check_invariants

NODE = NodeId("0000000001")
REQUEST = RequestId("200-0000000001")


def entry(path: str, data: bytes = b"", *, version: int = 0, owner: int = 0) -> Entry:
    return Entry(path, data, Stat(version, version, version, 1.0, 2.0, owner))


def node(state: NodeState = NodeState.READY, **fields: object) -> Node:
    return Node(id=NODE, state=state, **{"provider": "here", "pool": "main", "type": ("small",), **fields})  # type: ignore[arg-type]


def put(view: ClusterView, record: Node, version: int = 0) -> None:
    view.node_entry_changed(entry(paths.node(record.id), record.to_bytes(), version=version))


@pytest.fixture
def view() -> ClusterView:
    view = ClusterView()
    view.is_synced = True
    return view


def test_listeners_are_told_of_the_kinds_they_asked_for(view: ClusterView) -> None:
    some: list[ViewEvent] = []
    every: list[ViewEvent] = []
    stop = view.subscribe(some.append, NodeRemoved, RequestSeen)
    view.subscribe(every.append)
    put(view, node())
    view.node_entry_removed(paths.node(NODE))
    assert some == [NodeRemoved(NODE, node())]
    assert every == [NodeSeen(NODE, None), IdleNodeSeen(NODE), NodeRemoved(NODE, node()), IdleNodeGone(NODE, node())]
    stop()
    view.request_entry_changed(entry(paths.request(REQUEST), NodeRequest(id=REQUEST).to_bytes()))
    assert len(some) == 1
    assert every[4:] == [RequestSeen(REQUEST, None)]


def test_a_provider_is_told_of_its_own_nodes_and_of_those_it_loses(view: ClusterView) -> None:
    here: list[ViewEvent] = []
    there: list[ViewEvent] = []
    stop = view.subscribe_to_provider("here", here.append)
    view.subscribe_to_provider("there", there.append)
    put(view, node())
    contender = f"{paths.node_lock(NODE)}/x__lock__0000000000"
    view.node_entry_changed(entry(contender))
    view.node_entry_removed(contender)
    put(view, node(provider="there"))
    view.node_entry_removed(paths.node(NODE))
    assert here == [NodeSeen(NODE, None), NodeUnlocked(NODE), NodeSeen(NODE, node())]
    assert there == [NodeSeen(NODE, node()), NodeRemoved(NODE, node(provider="there"))]
    stop()
    assert list(view._by_provider) == ["there"]


def test_a_listener_may_end_while_it_is_told(view: ClusterView) -> None:
    told: list[ViewEvent] = []

    def once(event: ViewEvent) -> None:
        told.append(event)
        stop()

    stop = view.subscribe(once)
    put(view, node())
    put(view, node())
    assert len(told) == 1


def test_idle_nodes_come_in_order_of_readiness(view: ClusterView) -> None:
    ready = {"0000000003": 5.0, "0000000001": 7.0, "0000000002": 5.0}
    for node_id, since in ready.items():
        put(view, node(state_time=since, type=("small", "big")).changed(id=NodeId(node_id)))
    order = ["0000000002", "0000000003", "0000000001"]
    assert [seen.record.id for seen in view.idle_nodes("here", "main")] == order
    assert [seen.record.id for seen in view.idle_nodes("here", "main", "big")] == order
    assert view.idle_by_label == {"small": 3, "big": 3}
    assert not view.idle_nodes("here", "main", "rare")
    assert not view.idle_nodes("here", "other")


def test_what_is_used_and_what_leaves(view: ClusterView) -> None:
    resources = {"cores": 0.1, "instances": 1}
    put(view, node(NodeState.IN_USE, resources=resources, tenant_name="t"))
    assert dict(view.used("here", "main").amounts) == resources
    assert view.used_by_tenant("t")["cores"] == 0.1
    assert not dict(view.leaving("here", "main").amounts)
    put(view, node(NodeState.USED, resources=resources, tenant_name="t"))
    assert view.leaving("here", "main") == view.used("here") == view.used_by_tenant("t")
    put(view, node(resources=resources, tenant_name="t"))
    assert not dict(view.used_by_tenant("t").amounts), "idle nodes count for no tenant"
    assert not dict(view.leaving("here", "main").amounts)


def test_sums_do_not_drift(view: ClusterView) -> None:
    put(view, node(resources={"cores": 0.3}))
    for amount in (0.1, 0.2, 0.7) * 5:
        other = Node(id=NodeId("0000000002"), provider="here", pool="main", resources={"cores": amount})
        put(view, other)
    view.node_entry_removed(paths.node(other.id))
    assert view.used("here")["cores"] == 0.3


def test_an_interruption_counts_for_one_version(view: ClusterView) -> None:
    put(view, node(NodeState.BUILDING, allocated_to=REQUEST), version=3)
    view.interrupted[NODE] = 3
    (seen,) = view.interrupted_for(REQUEST)
    assert view.is_interrupted(seen)
    put(view, node(NodeState.BUILDING, allocated_to=REQUEST), version=4)
    assert not view.interrupted_for(REQUEST)
    assert not view.interrupted_nodes()


def test_only_a_node_that_somebody_else_has_locked_may_lag(view: ClusterView) -> None:
    path = paths.node(NODE)
    put(view, node())
    assert not view.may_lag(path)
    view.node_entry_changed(entry(f"{path}/lock/x__lock__0000000000"))
    assert view.may_lag(path)
    view.node_entry_changed(entry(f"{path}/lock/y__lock__0000000001", owner=7))
    assert not view.may_lag(path)


async def test_nothing_is_told_before_all_is_known() -> None:
    async with EmbeddedStore(None) as store:
        await store.create(paths.NEW_NODE, node().to_bytes(), sequence=True, parents=True)
        async with open_view(store) as view:
            told: list[ViewEvent] = []
            view.subscribe(told.append)
            assert view.is_synced
            assert len(view.nodes) == 1
            await store.expire_session()
            assert view.is_synced
            assert told == [ViewStale(), ViewSynced()]
            (seen,) = view.nodes.values()
            await store.commit([Put(seen.path, seen.record.into(NodeState.USED, 5.0).to_bytes(), seen.version)])
            assert told[2:] == [NodeSeen(seen.record.id, seen.record), IdleNodeGone(seen.record.id, seen.record)]
            check_invariants(view)


def test_a_cold_view_takes_in_what_it_does_not_tell() -> None:
    view = ClusterView()
    told: list[ViewEvent] = []
    view.subscribe(told.append)
    put(view, node())
    view.request_entry_changed(entry(paths.request(REQUEST), NodeRequest(id=REQUEST).to_bytes()))
    assert not told
    assert list(view.open_requests) == [REQUEST]
    assert list(view.nodes) == [NODE]


def test_launchers_are_the_processes_with_pools_that_are_present() -> None:
    view = ClusterView()
    view.is_synced = True
    changes: list[ViewEvent] = []
    view.subscribe(changes.append, PoolsChanged)

    def put(name: str, record: PoolRegistration | Presence, root: str, session: int) -> None:
        entry = Entry(f"{root}/{name}", record.to_bytes(), Stat(1, 1, 1, 0.0, 0.0, owner=session))
        (view.pool_entry_changed if root == paths.POOLS else view.presence_entry_changed)(entry)

    put("here-1", PoolRegistration(id="pool-1"), paths.POOLS, 7)
    put("there-1", PoolRegistration(id="pool-2"), paths.POOLS, 8)
    put("nodepool-1", PoolRegistration(id="pool-3"), paths.POOLS, 9)
    assert view.launchers == ()
    put("there", Presence(id="b"), paths.PRESENCES, 8)
    put("here", Presence(id="a"), paths.PRESENCES, 7)
    put("idle", Presence(id="c"), paths.PRESENCES, 10)
    assert view.launchers == ("a", "b")
    assert {peer.pool_id: peer.launcher for peer in view.peers} == {"pool-1": "a", "pool-2": "b", "pool-3": ""}
    told, peers = len(changes), view.peers
    put("here", Presence(id="a", hostname="here"), paths.PRESENCES, 7)
    assert (len(changes), view.peers) == (told, peers)
    view.presence_entry_removed(f"{paths.PRESENCES}/there")
    assert (len(changes), view.launchers) == (told + 1, ("a",))
    bad = Entry(f"{paths.PRESENCES}/here", b"{", Stat(1, 1, 2, 0.0, 0.0, owner=7))
    view.presence_entry_changed(bad)
    view.presence_entry_changed(bad)
    assert view.launchers == ()
