"""Listings of nodes and requests, for programs."""

from __future__ import annotations

from typing import Any

from nodelaunch.engine.view import Versioned
from nodelaunch.operations.listing import Snapshot, node_facts, request_facts
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.store import Entry, Stat

ENTRY = Entry("/", b"", Stat(0, 0, 0, 0.0, 0.0, 0))


def snapshot(*records: Node | NodeRequest) -> Snapshot:
    return Snapshot(
        nodes={each.id: Versioned(each, ENTRY) for each in records if isinstance(each, Node)},
        locked_nodes=frozenset({NodeId("1")}),
        requests={each.id: Versioned(each, ENTRY) for each in records if isinstance(each, NodeRequest)},
        locked_requests=frozenset(),
        pools=[], uploads={}, builds={}, paused_images=frozenset(), images={}, at=100.0,
    )  # fmt: skip


def test_assurance_of_host_keys() -> None:
    properties: tuple[dict[str, Any] | None, ...] = ({"host_key_assurance": "verified"}, {"spot": True}, None)
    nodes = [Node(id=NodeId(str(n)), node_properties=each) for n, each in enumerate(properties)]
    facts = node_facts(snapshot(*nodes))
    assert [node["host_key_assurance"] for node in facts] == ["verified", None, None]
    assert [node["locked"] for node in facts] == [False, True, False]


def test_who_asks_in_zuul() -> None:
    data = {"build_set_uuid": "b", "pipeline_name": "gate", "job_name": "unit", "tenant_name": "t"}
    mine = NodeRequest(id=RequestId("200-0000000001"), requestor_data=data)
    other = NodeRequest(id=RequestId("200-0000000002"), requestor_data="text")
    zuuls, others = request_facts(snapshot(mine, other))
    assert (zuuls["job"], zuuls["pipeline"], zuuls["build_set"]) == ("unit", "gate", "b")
    assert (others["job"], others["pipeline"], others["build_set"]) == (None, None, None)
