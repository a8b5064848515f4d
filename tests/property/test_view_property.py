"""Indexes of the view agree with its records, after any notifications of the store in any order."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from nodelaunch.engine.view import ClusterView, NodeSeen, ViewEvent
from nodelaunch.protocol import paths
from nodelaunch.protocol.access import LAUNCHER, Allowed, Asker
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest, PoolRegistration
from nodelaunch.protocol.states import ImageState, NodeState, RequestState
from nodelaunch.protocol.store import Entry, Stat
from support.invariants import check_invariants

Event = Callable[[ClusterView, int], None]
"""Notification of the store, given the number of the change."""

NODE_IDS = st.sampled_from([NodeId(f"{n:010d}") for n in range(4)])
REQUEST_IDS = st.sampled_from([RequestId(f"200-{n:010d}") for n in range(3)] + [RequestId("strange")])
LABELS = st.lists(st.sampled_from(["small", "big", "rare"]), max_size=3).map(tuple)
AMOUNTS = st.sampled_from([0, 0.1, 0.2, 0.7, 1, 3, 8192])
RESOURCES = st.none() | st.dictionaries(st.sampled_from(["cores", "instances", "ram"]), AMOUNTS)
PROVIDERS = st.sampled_from([None, "here", "there"])


def entry(path: str, data: bytes, change: int, *, owner: int = 0, record: object = None) -> Entry:
    return Entry(path, data, Stat(change, change, change, float(change), float(change), owner), record)


nodes = st.builds(
    Node,
    id=NODE_IDS,
    state=st.sampled_from(NodeState),
    state_time=st.sampled_from([0.0, 1.0, 2.0]),
    provider=PROVIDERS,
    pool=st.sampled_from([None, "main", "other"]),
    type=LABELS,
    allocated_to=st.none() | REQUEST_IDS,
    tenant_name=st.sampled_from([None, "t1", "t2"]),
    hostname=st.sampled_from([None, "host"]),
    resources=RESOURCES,
)
requests = st.builds(
    NodeRequest,
    id=REQUEST_IDS,
    state=st.sampled_from(RequestState),
    node_types=LABELS,
    requestor=st.sampled_from(["zuul", paths.MIN_READY_REQUESTOR]),
)
pools = st.builds(
    PoolRegistration,
    id=st.sampled_from(["a", "b"]),
    name=st.sampled_from(["main", "other"]),
    provider_name=st.sampled_from(["here", "there"]),
    supported_labels=LABELS,
    paused=st.booleans(),
)


def node_seen(node: Node, is_own: bool) -> Event:
    def tell(view: ClusterView, change: int) -> None:
        record = node.changed(id=NodeId("")) if is_own else None
        data = b"not looked at" if is_own else node.to_bytes()
        view.node_entry_changed(entry(paths.node(node.id), data, change, record=record))

    return tell


def request_seen(request: NodeRequest, is_own: bool) -> Event:
    def tell(view: ClusterView, change: int) -> None:
        record = request.changed(id=RequestId("")) if is_own else None
        data = b"not looked at" if is_own else request.to_bytes()
        view.request_entry_changed(entry(paths.request(request.id), data, change, record=record))

    return tell


def upload_seen(image: str, state: ImageState | None) -> Event:
    path = f"{paths.uploads(image, '1', 'here')}/1"

    def tell(view: ClusterView, change: int) -> None:
        view.newest_upload(image, "here")
        view.image_begun_at(image, "here")
        if state is None:
            view.image_entry_removed(path)
        else:
            view.image_entry_changed(entry(path, json.dumps({"state": state}).encode(), change))

    return tell


def interrupted(node_id: NodeId) -> Event:
    def tell(view: ClusterView, _change: int) -> None:
        if node_id in view.nodes:
            view.interrupted[node_id] = view.nodes[node_id].version

    return tell


def _some_on_one(node: Node) -> Allowed:
    return frozenset({"a", "b"}) if int(node.id) % 2 else None


def _by_host(node: Node) -> Allowed:
    return frozenset({node.hostname}) if node.hostname else frozenset()


RULES = st.sampled_from([None, _some_on_one, _by_host])
CONTENDERS = st.sampled_from(["a__lock__0000000000", "b__lock__0000000001", "no contender"])
EVENTS = st.one_of(
    st.builds(node_seen, nodes, st.booleans()),
    st.builds(node_seen, nodes, st.booleans()),
    st.builds(request_seen, requests, st.booleans()),
    NODE_IDS.map(lambda i: lambda view, _: view.node_entry_removed(paths.node(i))),
    NODE_IDS.map(lambda i: lambda view, change: view.node_entry_changed(entry(paths.node(i), b"", change))),
    NODE_IDS.map(interrupted),
    NODE_IDS.map(lambda i: lambda view, _: view.discarded.update({i} & view.nodes.keys())),
    st.builds(
        lambda i, name, owner: lambda view, change: view.node_entry_changed(
            entry(f"{paths.node_lock(i)}/{name}", b"", change, owner=owner)
        ),
        NODE_IDS, CONTENDERS, st.sampled_from([0, 7]),
    ),
    NODE_IDS.map(lambda i: lambda view, _: view.node_entry_removed(f"{paths.node_lock(i)}/a__lock__0000000000")),
    REQUEST_IDS.map(lambda i: lambda view, _: view.request_entry_removed(paths.request(i))),
    REQUEST_IDS.map(
        lambda i: lambda view, n: view.request_lock_entry_changed(
            entry(f"{paths.request_lock(i)}/a__lock__0000000000", b"", n)
        )
    ),
    REQUEST_IDS.map(lambda i: lambda view, n: view.request_lock_entry_changed(entry(paths.request_lock(i), b"", n))),
    REQUEST_IDS.map(lambda i: lambda view, _: view.request_lock_entry_removed(paths.request_lock(i))),
    REQUEST_IDS.map(
        lambda i: lambda view, _: view.request_lock_entry_removed(f"{paths.request_lock(i)}/a__lock__0000000000")
    ),
    st.builds(
        lambda at, pool: lambda view, n: view.pool_entry_changed(entry(f"{paths.POOLS}/{at}", pool.to_bytes(), n)),
        st.sampled_from("xy"), pools,
    ),
    st.sampled_from("xy").map(lambda at: lambda view, _: view.pool_entry_removed(f"{paths.POOLS}/{at}")),
    st.builds(
        lambda pool, rule: lambda view, _: view.split_idle("here", pool, rule),
        st.sampled_from(["main", "other"]),
        RULES,
    ),
    st.builds(upload_seen, st.sampled_from(["jammy", "noble"]), st.none() | st.sampled_from(ImageState)),
)  # fmt: skip


@given(st.lists(EVENTS, max_size=25))
def test_indexes_say_what_the_records_say(events: list[Event]) -> None:
    view = ClusterView()
    view.is_synced = True
    told: list[ViewEvent] = []
    view.subscribe(told.append)
    for change, tell in enumerate(events, start=1):
        tell(view, change)
        view.peers  # noqa: B018  it is kept from here on
        view.used("here")
        check_invariants(view)


idle_nodes = st.builds(
    Node, id=NODE_IDS, state=st.sampled_from([NodeState.READY, NodeState.READY, NodeState.USED]),
    state_time=st.sampled_from([0.0, 1.0]), provider=st.just("here"), pool=st.sampled_from(["main", "main", "other"]),
    type=LABELS, allocated_to=st.sampled_from([None, None, None, RequestId("200-0000000001")]),
    hostname=st.sampled_from([None, "one", "two"]),
)  # fmt: skip
SPLITS = st.builds(lambda rule: lambda view, _: view.split_idle("here", "main", rule), RULES)


@given(st.lists(SPLITS | st.builds(node_seen, idle_nodes, st.booleans()), max_size=15), st.sampled_from("ab"))
def test_idle_nodes_are_told_apart_by_who_may_use_them(events: list[Event], tenant: str) -> None:
    view = ClusterView()
    view.is_synced = True
    for change, tell in enumerate(events, start=1):
        tell(view, change)
        check_invariants(view)
    rule = view.idle._splits.get(("here", "main", None), lambda _node: None)
    for asker in (Asker(tenant), Asker(None), LAUNCHER):
        for label in {label for seen in view.nodes.values() for label in seen.record.type}:
            found = [seen for some in view.idle_nodes_for("here", "main", label, asker) for seen in some]
            every = view.idle_nodes("here", "main", label)
            assert len({seen.record.id for seen in found}) == len(found)
            assert [seen for seen in every if seen in found] == [s for s in every if asker.may_use(rule(s.record))]


def hidden_anew(hosts: set[str | None]) -> Event:
    """Idle nodes of *hosts*, and no others, are hidden from now on."""

    def tell(view: ClusterView, _change: int) -> None:
        view.idle.hide("here", lambda node: node.hostname in hosts)
        for seen in [*view.idle_nodes("here", "main"), *view.idle_nodes("here", "other")]:
            was_hidden = seen.record.id in view.idle._hidden
            assert view.idle.look_again(seen) is (was_hidden and seen.record.hostname not in hosts)

    return tell


HIDINGS = st.sets(st.sampled_from([None, "one", "two"])).map(hidden_anew)


@given(st.lists(SPLITS | HIDINGS | st.builds(node_seen, idle_nodes, st.booleans()), max_size=15))
def test_hidden_nodes_are_given_to_nobody(events: list[Event]) -> None:
    view = ClusterView()
    view.is_synced = True
    for change, tell in enumerate(events, start=1):
        tell(view, change)
        check_invariants(view)
    is_hidden = view.idle._hiding.get("here", lambda _node: False)
    assert view.idle._hidden == {s.record.id for s in view.nodes.values() if s.record.is_idle and is_hidden(s.record)}
    for label in {label for seen in view.nodes.values() for label in seen.record.type}:
        for asker in (Asker("a"), Asker(None), LAUNCHER):
            found = [seen for some in view.idle_nodes_for("here", "main", label, asker) for seen in some]
            assert not any(is_hidden(seen.record) for seen in found)


@given(st.lists(st.builds(node_seen, nodes, st.booleans()), max_size=10))
def test_a_change_carries_what_was_there_before(events: list[Event]) -> None:
    view = ClusterView()
    view.is_synced = True
    before: dict[NodeId, Node] = {}

    def compare(event: ViewEvent) -> None:
        assert isinstance(event, NodeSeen)
        assert event.old == before.get(event.id)
        before[event.id] = view.nodes[event.id].record

    view.subscribe(compare, NodeSeen)
    for change, tell in enumerate(events, start=1):
        tell(view, change)
    assert before == {node_id: seen.record for node_id, seen in view.nodes.items()}


@given(st.lists(st.builds(node_seen, nodes, st.booleans()), max_size=10), st.data())
def test_nothing_is_left_of_nodes_that_are_gone(events: list[Event], data: st.DataObject) -> None:
    view = ClusterView()
    for change, tell in enumerate(events, start=1):
        tell(view, change)
    view.split_idle("here", "main", _some_on_one)
    for node_id in data.draw(st.permutations(sorted(view.nodes))):
        view.node_entry_removed(paths.node(node_id))
    idle = (view.idle._places, view.idle._shares, view.idle.by_label)
    left = (view._instances._nodes, view._of_provider, view._of_request, *idle, view._sums.of_pool._sums)
    assert not any(left)
