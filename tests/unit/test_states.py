"""The tables of states hang together."""

from __future__ import annotations

from nodelaunch.protocol.states import (
    ABANDONED_WHEN_UNLOCKED,
    NODE_EDGES,
    REQUEST_EDGES,
    REQUEST_FINAL,
    NodeState,
    RequestState,
)


def test_final_requests_have_no_way_out() -> None:
    assert not {before for before, _ in REQUEST_EDGES} & REQUEST_FINAL
    assert {RequestState.FULFILLED, RequestState.FAILED} == REQUEST_FINAL


def test_every_abandoned_node_may_be_deleted() -> None:
    assert all((state, NodeState.DELETING) in NODE_EDGES for state in ABANDONED_WHEN_UNLOCKED)


def test_every_edge_says_why() -> None:
    assert all([*NODE_EDGES.values(), *REQUEST_EDGES.values()])
