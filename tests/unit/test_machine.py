"""The request machine, as dialogues: an event, and the effects that follow."""

from __future__ import annotations

from typing import Any

import pytest

from nodelaunch.decisions import machine as m
from nodelaunch.decisions.machine import (
    Abandon,
    AwaitQuota,
    CancelLaunches,
    ClaimLost,
    ClaimNode,
    Closed,
    CloseRefused,
    Failed,
    HandOver,
    Launch,
    LockGranted,
    LockLost,
    LockRefused,
    LockRequest,
    NodeAborted,
    NodeClaimed,
    NodeFailed,
    NodeReady,
    NodesLost,
    Outcome,
    Phase,
    QuotaFreed,
    ReleaseNodes,
    RequestGone,
    Save,
    Stopped,
    UnlockRequest,
    Withdrawn,
)
from nodelaunch.errors import InvalidTransitionError
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import Accept, AtCapacity, Decline, HandlerFailed, LabelNotOffered, LaunchesFailed
from support.builders import a_request

A, B, C = NodeId("0000000001"), NodeId("0000000002"), NodeId("0000000003")
PENDING = Save(RequestState.PENDING)
HAND_BACK = Save(RequestState.REQUESTED)
REASON = HandlerFailed("boom")


class Dialogue:
    """Dialogue of a request with the machine."""

    def __init__(self, *reuse: NodeId | None, can_launch: bool = True, retries: int = 3) -> None:
        labels = ["small"] * len(reuse)
        self.options: dict[str, Any] = {"retries": retries, "can_launch": can_launch}
        self.state, effects = m.start(a_request(*labels), Accept(tuple(reuse), Usage()))
        assert effects == (LockRequest(), PENDING)

    def on(self, event: m.Event) -> tuple[m.Effect, ...]:
        self.state, effects = m.step(self.state, event, **self.options)
        return effects

    def end(self, event: m.Event = Closed()) -> Outcome | None:  # noqa: B008
        self.on(event)
        assert self.state.is_done
        return self.state.outcome


def working(*reuse: NodeId | None, **options: Any) -> Dialogue:
    talk = Dialogue(*reuse, **options)
    talk.on(LockGranted())
    return talk


# -- the good ways --------------------------------------------------------------------------------------------------


def test_nodes_are_claimed_and_launched_then_handed_over_in_label_order() -> None:
    talk = Dialogue(None, A, None)
    assert talk.on(LockGranted()) == (Launch(0, 1), ClaimNode(1, A), Launch(2, 1))
    assert talk.on(NodeReady(2, C)) == ()
    assert talk.on(NodeClaimed(1, A)) == ()
    assert talk.on(NodeReady(0, B)) == (
        HandOver((B, A, C)),
        Save(RequestState.FULFILLED, (B, A, C)),
        UnlockRequest(),
    )
    assert talk.end() is Outcome.FULFILLED


def test_request_for_nothing_is_fulfilled_at_once() -> None:
    assert Dialogue().on(LockGranted()) == (HandOver(()), Save(RequestState.FULFILLED), UnlockRequest())


def test_decline_is_saved_with_the_lock_and_then_unlocked() -> None:
    reasons = (LabelNotOffered("x"),)
    state, effects = m.start(a_request("x"), Decline(reasons))
    assert effects == (LockRequest(), Save(RequestState.REQUESTED, declined=reasons))
    state, effects = m.step(state, LockGranted(), retries=3)
    assert effects == (UnlockRequest(),)
    state, _ = m.step(state, Closed(), retries=3)
    assert (state.is_done, state.outcome) == (True, Outcome.DECLINED)


def test_refused_lock_ends_it_without_a_trace() -> None:
    talk = Dialogue(None)
    assert talk.on(LockRefused()) == ()
    assert (talk.state.is_done, talk.state.outcome) == (True, Outcome.LOCK_REFUSED)


# -- failures, retries, quota ---------------------------------------------------------------------------------------


def test_failed_launch_is_tried_again_then_declined() -> None:
    talk = working(A, None, retries=2)
    assert talk.on(NodeClaimed(0, A)) == ()
    assert talk.on(NodeFailed(1, "no")) == (Launch(1, 2),)
    assert talk.on(NodeFailed(1, "never")) == (
        ReleaseNodes((A,)),
        Save(RequestState.REQUESTED, declined=(LaunchesFailed("never"),)),
        UnlockRequest(),
    )
    assert talk.end() is Outcome.DECLINED


def test_final_failure_cancels_the_others_first() -> None:
    talk = working(None, None, None)
    assert talk.on(NodeFailed(0, "no such flavor", is_final=True)) == (CancelLaunches(),)
    assert talk.on(Stopped(1)) == ()
    effects = talk.on(NodeReady(2, C))
    assert effects[0] == ReleaseNodes((C,))
    assert effects[2] == UnlockRequest()


def test_aborted_launch_waits_for_quota_and_spends_no_attempt() -> None:
    talk = working(None, retries=1)
    for _ in range(5):
        assert talk.on(NodeAborted(0)) == (AwaitQuota(0),)
        assert talk.on(QuotaFreed(0)) == (Launch(0, 1),)
    assert talk.on(NodeReady(0, A))[0] == HandOver((A,))


def test_lost_claim_becomes_a_launch_where_there_is_launching() -> None:
    talk = working(A, B)
    assert talk.on(ClaimLost(0)) == (AwaitQuota(0),)
    talk.on(NodeClaimed(1, B))
    assert talk.on(QuotaFreed(0)) == (Launch(0, 1),)


def test_lost_claim_hands_back_where_there_is_none() -> None:
    talk = working(A, B, can_launch=False)
    assert talk.on(ClaimLost(0)) == (CancelLaunches(),)
    assert talk.on(NodeClaimed(1, B)) == (ReleaseNodes((B,)), HAND_BACK, UnlockRequest())
    assert talk.end() is Outcome.HANDED_BACK


# -- others interfere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "save"),
    [
        (RequestGone(), ()),
        (Withdrawn(), (HAND_BACK,)),
        (Failed(REASON), (Save(RequestState.REQUESTED, declined=(REASON,)),)),
    ],
)
def test_work_is_stopped_and_nodes_are_freed(event: m.Event, save: tuple[m.Effect, ...]) -> None:
    talk = working(A, None)
    talk.on(NodeClaimed(0, A))
    assert talk.on(event) == (CancelLaunches(),)
    for late in (RequestGone(),) if not save else (Withdrawn(), Failed(REASON)):
        assert talk.on(late) == ()
    assert talk.on(Stopped(1)) == (ReleaseNodes((A,)), *save, UnlockRequest())


def test_lost_lock_writes_nothing_more() -> None:
    talk = working(A, None)
    talk.on(NodeClaimed(0, A))
    assert talk.on(LockLost()) == (CancelLaunches(),)
    assert talk.on(RequestGone()) == ()
    assert talk.on(NodeFailed(1, "x")) == (Abandon(),)
    assert (talk.state.is_done, talk.state.outcome) == (True, Outcome.LOST)


def test_lock_lost_while_draining_or_closing_counts() -> None:
    talk = working(None)
    talk.on(RequestGone())
    talk.on(LockLost())
    assert talk.on(Stopped(0)) == (Abandon(),)
    talk = working(None)
    talk.on(NodeReady(0, A))
    assert talk.on(LockLost()) == (Abandon(),)
    assert talk.state.outcome is Outcome.LOST
    assert Dialogue(None).on(LockLost()) == (Abandon(),)


def test_request_gone_before_the_lock_was_answered() -> None:
    talk = Dialogue(None)
    assert talk.on(RequestGone()) == ()
    assert talk.on(Withdrawn()) == ()
    assert talk.on(LockGranted()) == (UnlockRequest(),)
    assert talk.end() is Outcome.GONE


def test_withdrawn_before_the_lock_was_answered() -> None:
    talk = Dialogue(None)
    talk.on(Withdrawn())
    assert talk.on(LockGranted()) == (HAND_BACK, UnlockRequest())


def test_request_gone_at_the_last_moment_frees_the_nodes() -> None:
    talk = working(None)
    talk.on(NodeReady(0, A))
    for undecided in (Withdrawn(), RequestGone()):
        assert talk.on(undecided) == ()
    assert talk.on(CloseRefused()) == (ReleaseNodes((A,)), UnlockRequest())
    assert talk.end() is Outcome.GONE


def test_request_gone_after_all_was_done_changes_nothing() -> None:
    talk = working(None)
    talk.on(NodeReady(0, A))
    assert talk.on(RequestGone()) == ()
    assert talk.end() is Outcome.FULFILLED


def test_node_lost_at_the_last_moment_hands_back() -> None:
    talk = working(None, None)
    talk.on(NodeReady(0, A))
    talk.on(NodeReady(1, B))
    assert talk.on(NodesLost((A,))) == (ReleaseNodes((B,)), HAND_BACK, UnlockRequest())
    assert talk.on(NodesLost((B,))) == (HAND_BACK, UnlockRequest())
    assert talk.end() is Outcome.HANDED_BACK


def test_node_lost_earlier_hands_back_or_keeps_the_outcome() -> None:
    talk = working(None, None)
    talk.on(NodeReady(0, A))
    assert talk.on(NodesLost((A,))) == (CancelLaunches(),)
    talk = working(None, None)
    talk.on(NodeReady(0, A))
    talk.on(RequestGone())
    assert talk.on(NodesLost((A,))) == ()
    assert talk.on(Stopped(1)) == (UnlockRequest(),)
    assert talk.on(NodesLost(())) == (UnlockRequest(),)
    assert talk.state.outcome is Outcome.GONE


def test_late_node_is_released() -> None:
    talk = working(None)
    talk.on(RequestGone())
    talk.on(Stopped(0))
    talk.on(Closed())
    assert talk.on(NodeReady(0, A)) == (ReleaseNodes((A,)),)
    assert talk.on(NodeClaimed(0, A)) == (ReleaseNodes((A,)),)
    assert talk.on(Withdrawn()) == ()


# -- what can't be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("talk", "event"),
    [
        (Dialogue(None), NodeReady(0, A)),
        (working(None), LockGranted()),
        (working(None), NodeReady(1, A)),
        (working(None), NodeClaimed(0, A)),
        (working(None), QuotaFreed(0)),
        (working(A), NodeFailed(0, "x")),
        (working(A), NodeAborted(0)),
        (working(None), ClaimLost(0)),
        (working(None), NodeFailed(-1, "x")),
        (working(None), Closed()),
    ],
)
def test_impossible_events_carry_the_story(talk: Dialogue, event: m.Event) -> None:
    with pytest.raises(InvalidTransitionError) as caught:
        talk.on(event)
    assert caught.value.story[-1] == repr(event)
    assert talk.state.request.id in caught.value.detail


def test_impossible_in_later_phases() -> None:
    draining = working(None)
    draining.on(RequestGone())
    closing = working(None)
    closing.on(NodeReady(0, A))
    done = working(None)
    done.on(NodeReady(0, A))
    done.on(Closed())
    for talk, event in ((draining, LockGranted()), (closing, NodeReady(0, A)), (done, Closed())):
        with pytest.raises(InvalidTransitionError):
            talk.on(event)
    assert done.state.phase is Phase.DONE


def test_refused_quota_ends_a_request_for_a_node_to_be_kept_ready() -> None:
    request = a_request().changed(requestor=MIN_READY_REQUESTOR)
    state, _ = m.start(request, Accept((None,), Usage(instances=1)))
    state, _ = m.step(state, LockGranted(), retries=3)
    state, effects = m.step(state, NodeAborted(0), retries=3)
    assert state.outcome is Outcome.DECLINED
    assert effects == (Save(RequestState.REQUESTED, declined=(AtCapacity("room"),)), UnlockRequest())
