"""The tables of states hang together."""

from __future__ import annotations

from fuzz.moves import LAUNCHER_MOVES, REQUEST_MOVES
from nodelaunch.protocol.states import ABANDONED_WHEN_UNLOCKED, REQUEST_FINAL, NodeState, RequestState


def test_final_requests_have_no_way_out() -> None:
    assert not {before for before, _ in REQUEST_MOVES} & REQUEST_FINAL
    assert {RequestState.FULFILLED, RequestState.FAILED} == REQUEST_FINAL


def test_every_abandoned_node_may_be_deleted() -> None:
    assert all((state, NodeState.DELETING) in LAUNCHER_MOVES for state in ABANDONED_WHEN_UNLOCKED)
