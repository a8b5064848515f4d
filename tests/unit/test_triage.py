"""What a pool does with requests: accept, decline, defer, in which order and for which reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.triage import (
    Accept,
    AtCapacity,
    BetterPool,
    ConcurrencyReached,
    Decline,
    Defer,
    HandlerFailed,
    ImageMissing,
    LabelNotOffered,
    LabelUnusable,
    LabelView,
    LaunchesFailed,
    LeftToOthers,
    NeverFits,
    NoFreeMachine,
    NoRoom,
    PoolDisabled,
    PoolView,
    ProviderDown,
    ProviderWanted,
    Tenant,
    TenantFull,
    TenantNeverFits,
    TooFewMachines,
    Verdict,
    after_decline,
    make_room,
    match_labels,
    triage,
)
from support.builders import POOL_ID, a_peer, a_pool_view, a_request, an_idle_node


def one(view: PoolView, *labels: str, **fields: object) -> Verdict:
    ((_, verdict),) = triage([a_request(*labels, **fields)], view)
    return verdict


# -- who looks at what ----------------------------------------------------------------------------------------------


def test_only_open_requests_not_declined_by_us_are_looked_at() -> None:
    requests = [
        a_request(number=1, state=RequestState.PENDING),
        a_request(number=2, declined_by=(POOL_ID,)),
        a_request(number=3),
    ]
    assert [request.id[-1] for request, _ in triage(requests, a_pool_view())] == ["3"]


def test_servable_requests_come_first_then_priority() -> None:
    requests = [
        a_request("nothing", number=1, priority="100"),
        a_request(number=2, priority="300"),
        a_request(number=3, relative_priority=7),
        a_request(number=4, relative_priority=2),
    ]
    assert [request.id[-1] for request, _ in triage(requests, a_pool_view())] == ["4", "3", "2", "1"]


def test_provider_that_takes_no_requests_declines_none() -> None:
    assert list(triage([a_request(), a_request("nothing")], a_pool_view(max_concurrency=0))) == []


# -- left to somebody else ------------------------------------------------------------------------------------------


def test_wanted_provider_goes_first_even_while_paused() -> None:
    elsewhere = a_peer("p", provider="wanted", is_paused=True)
    view = a_pool_view(more_peers=[elsewhere])
    assert one(view, provider="wanted") == Defer((ProviderWanted("wanted"),))
    assert isinstance(one(view, provider="wanted", declined_by=("p",)), Accept)
    assert isinstance(one(view, provider="cloud"), Accept)
    assert isinstance(one(a_pool_view(), provider="absent"), Accept)
    better = a_peer("p", provider="elsewhere", priority=50)
    assert isinstance(one(a_pool_view(more_peers=[better]), provider="cloud"), Accept)
    assert isinstance(one(a_pool_view(more_peers=[better])), Defer)


def test_better_pool_goes_first_unless_it_is_paused() -> None:
    view = a_pool_view(more_peers=[a_peer("p", priority=50)])
    assert one(view) == Defer((BetterPool("p", 50),))
    assert isinstance(one(view, declined_by=("p",)), Accept)
    assert isinstance(one(a_pool_view(more_peers=[a_peer("p", priority=50, is_paused=True)])), Accept)
    assert isinstance(one(a_pool_view(more_peers=[a_peer("p", priority=150)])), Accept)


def test_label_we_lack_is_left_to_those_who_have_it() -> None:
    view = a_pool_view(more_peers=[a_peer("p", "small", "special")])
    assert one(view, "small", "special") == Defer((LeftToOthers("special"),))
    assert one(view, "small", "special", declined_by=("p",)) == Decline((LabelNotOffered("special"),))


# -- never ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "labels", "reason"),
    [
        ({"is_enabled": False}, ("small",), PoolDisabled()),
        ({}, ("nothing",), LabelNotOffered("nothing")),
        ({"labels": {"small": LabelView(broken="no flavor")}}, ("small",), LabelUnusable("small", "no flavor")),
        ({"labels": {"small": LabelView(is_ready=False)}}, ("small",), ImageMissing("small")),
        ({"ceiling": Limits(instances=1)}, ("small", "small"), NeverFits("instances", 2, 1)),
        ({"can_launch": False, "machines": [frozenset({"small"})]}, ("small", "small"), TooFewMachines("small")),
    ],
)
def test_what_can_never_be_served_is_declined(changes: dict, labels: tuple[str, ...], reason: object) -> None:
    assert one(a_pool_view(**changes), *labels) == Decline((reason,))


def test_more_than_the_tenant_may_ever_have_is_declined() -> None:
    view = a_pool_view(tenants={"t": Tenant(Limits(instances=1), Limits(instances=1))})
    assert one(view, "small", "small", tenant_name="t") == Decline((TenantNeverFits("t", "instances", 2, 1),))
    assert isinstance(one(view, "small", tenant_name="t"), Accept)
    assert isinstance(one(view, "small", "small", tenant_name="other"), Accept)
    assert isinstance(one(view, "small", "small"), Accept)


# -- not now --------------------------------------------------------------------------------------------------------


def test_provider_that_is_down_is_waited_for() -> None:
    assert one(a_pool_view(down="no answer")) == Defer((ProviderDown("no answer"),))


def test_full_tenant_waits_and_others_go_on() -> None:
    view = a_pool_view(tenants={"t": Tenant(Limits(instances=2), Limits(instances=1))})
    requests = [a_request(number=n, tenant_name="t") for n in (1, 2)] + [a_request(number=3, tenant_name="u")]
    verdicts = [verdict for _, verdict in triage(requests, view)]
    assert isinstance(verdicts[0], Accept)
    assert verdicts[1] == Defer((TenantFull("t", "instances", 1, 0),))
    assert isinstance(verdicts[2], Accept)


def test_what_a_request_waits_for_is_kept_for_it() -> None:
    view = a_pool_view(room=Limits(instances=9, cores=4))
    requests = [a_request("big", "big", number=1), a_request("big", number=2), a_request("small", number=3)]
    verdicts = [verdict for _, verdict in triage(requests, view)]
    assert verdicts[0] == Defer((NoRoom("cores", 8, 4),), Usage(instances=2, cores=8))
    assert verdicts[1] == Defer((NoRoom("cores", 4, 0),), Usage(instances=1, cores=4))
    assert isinstance(verdicts[2], Accept)
    assert verdicts[0].waits_for_room
    assert not Defer((ProviderDown("x"),)).waits_for_room


def test_what_is_accepted_is_not_there_for_the_next() -> None:
    requests = [a_request(number=n) for n in range(1, 5)]
    verdicts = [verdict for _, verdict in triage(requests, a_pool_view(room=Limits(instances=3)))]
    assert [type(verdict) for verdict in verdicts] == [Accept, Accept, Accept, Defer]


def test_nodes_to_be_kept_ready_don_t_wait() -> None:
    view = a_pool_view(room=Limits(instances=0))
    request = replace(a_request(), requestor=MIN_READY_REQUESTOR, reuse=False)
    ((_, verdict),) = triage([request], view)
    assert verdict == Decline((AtCapacity("instances"),))


def test_launches_at_once_are_limited() -> None:
    requests = [a_request(number=n) for n in (1, 2, 3)]
    verdicts = [v for _, v in triage(requests, a_pool_view(launches_left=2, max_concurrency=5))]
    assert isinstance(verdicts[1], Accept)
    assert verdicts[2] == Defer((ConcurrencyReached(5),), Usage(instances=1))


# -- reuse ----------------------------------------------------------------------------------------------------------


def test_idle_nodes_are_used_first_the_oldest_before_others() -> None:
    idle = [an_idle_node(1, ready_at=5.0), an_idle_node(2, ready_at=3.0), an_idle_node(3, "big")]
    assert one(a_pool_view(idle=idle)) == Accept((NodeId("0000000002"),), Usage())
    verdict = one(a_pool_view(idle=idle, room=Limits(instances=1)), "small", "big", "small", "small")
    assert isinstance(verdict, Accept)
    first, big, second, launched = verdict.reuse
    assert ({first, second}, big, launched) == ({"0000000001", "0000000002"}, "0000000003", None)
    assert verdict.need == Usage(instances=1)


def test_no_idle_node_is_given_twice() -> None:
    requests = [a_request(number=1), a_request(number=2)]
    verdicts = [v for _, v in triage(requests, a_pool_view(idle=[an_idle_node(1)]))]
    assert [v.reuse for v in verdicts if isinstance(v, Accept)] == [(NodeId("0000000001"),), (None,)]


def test_request_may_refuse_idle_nodes() -> None:
    assert one(a_pool_view(idle=[an_idle_node(1)]), reuse=False) == Accept((None,), Usage(instances=1))


def test_machines_that_exist_are_waited_for_and_kept() -> None:
    machines = [frozenset({"small"}), frozenset({"small"}), frozenset({"big"})]
    view = a_pool_view(can_launch=False, machines=machines, idle=[an_idle_node(1), an_idle_node(2, "big")])
    requests = [a_request("small", "small", number=1), a_request("small", number=2), a_request("big", number=3)]
    verdicts = [v for _, v in triage(requests, view)]
    assert verdicts[0] == Defer((NoFreeMachine("small"),), Usage(instances=1))
    assert isinstance(verdicts[1], Defer)
    assert verdicts[2] == Accept((NodeId("0000000002"),), Usage())


def test_matching_finds_a_way_where_there_is_one() -> None:
    offers = [frozenset({"a", "b"}), frozenset({"a"})]
    assert match_labels(["a", "b"], offers) == [1, 0]
    assert match_labels(["b", "b"], offers) == [0, None]
    assert match_labels([], offers) == []


# -- declining and making room --------------------------------------------------------------------------------------


def test_last_registered_pool_fails_the_request() -> None:
    request = a_request(declined_by=("gone",))
    waiting = after_decline(request, "a", ["a", "b"], 5.0)
    assert (waiting.state, waiting.declined_by, waiting.state_time) == (RequestState.REQUESTED, ("gone", "a"), 5.0)
    failed = after_decline(waiting, "b", ["a", "b"], 6.0)
    assert (failed.state, failed.declined_by, failed.nodes) == (RequestState.FAILED, ("gone", "a", "b"), ())
    assert after_decline(waiting, "a", ["a"], 7.0).declined_by == ("gone", "a")


def test_room_is_made_from_the_longest_ready_and_no_more_than_needed() -> None:
    idle = [an_idle_node(n, ready_at=float(10 - n)) for n in range(1, 6)]
    need, room = Usage(instances=3), Limits(instances=1)
    assert make_room(need, room, Usage(), idle) == ("0000000005", "0000000004")
    assert make_room(need, room, Usage(instances=1), idle) == ("0000000005",)
    assert make_room(need, room, Usage(instances=2), idle) == ()
    assert make_room(Usage(instances=9), room, Usage(), idle) == ()
    assert make_room(Usage(cores=1), Limits(cores=0), Usage(), idle) == ()


def test_reasons_are_clauses_for_people() -> None:
    assert str(NoRoom("cores", 8, 4)) == "8 cores wanted, 4 left (what earlier requests wait for set apart)"
    assert str(LaunchesFailed("boom")) == "its nodes could not be launched: boom"
    assert str(HandlerFailed("x")) == "handling it failed: x"
