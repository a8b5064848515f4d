"""The order of idle nodes in which the first ones are of as many machines as can be."""

from __future__ import annotations

from nodelaunch.decisions.triage import IdleNode, spread
from nodelaunch.protocol.paths import NodeId


def nodes(*machines: str | None) -> list[IdleNode]:
    return [IdleNode(NodeId(str(n)), frozenset(["small"]), machine=name) for n, name in enumerate(machines)]


def test_machines_take_turns_in_the_order_of_their_nodes() -> None:
    assert [node.machine for node in spread(nodes("a", "a", "b", "a", "c", "b"))] == ["a", "b", "c", "a", "b", "a"]


def test_nodes_of_no_machine_stay_where_they_are() -> None:
    plain = nodes(None, None)
    assert spread(plain) == plain
    assert [node.id for node in spread(nodes("a", "a", None))] == ["0", "2", "1"]
