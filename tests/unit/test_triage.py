"""What a pool does with requests: accept, decline, defer, in which order and for which reasons."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId, RequestId
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.triage import (
    Absentee,
    LabelView,
    PoolView,
    Tenant,
    Waiting,
    after_decline,
    make_room,
    match_labels,
    triage,
)
from nodelaunch.protocol.verdicts import (
    Accept,
    AtCapacity,
    BetterPool,
    ConcurrencyReached,
    Decline,
    Defer,
    HandlerFailed,
    ImageMissing,
    ImageOnTheWay,
    LabelNotOffered,
    LabelUnusable,
    LaunchesFailed,
    LeftToOthers,
    NeverFits,
    NobodyLeft,
    NoFreeMachine,
    NoRoom,
    OffererAway,
    PoolDisabled,
    ProviderDown,
    ProviderWanted,
    Reason,
    TenantFull,
    TenantNeverFits,
    TooFewMachines,
    Verdict,
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
    view = a_pool_view(more_peers=[a_peer()])
    assert [request.id[-1] for request, _ in triage(requests, view)] == ["3"]


def test_what_everybody_declined_is_failed_at_last() -> None:
    """The pool that was to decline last is gone, and has not."""
    request = a_request("rare", declined_by=(POOL_ID, "gone"))
    ((_, verdict),) = triage([request], a_pool_view())
    assert verdict == Decline((NobodyLeft(),))
    away = Absentee("cloud", "other", frozenset({"rare"}), until=50.0)
    ((_, verdict),) = triage([request], a_pool_view(absent=[away], now=10.0))
    assert isinstance(verdict, Defer)


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


def test_wanted_provider_yields_to_better_pools_of_its_own_only() -> None:
    """Those of other providers leave the request to it: if it left it to them, nobody would serve it."""
    better = a_peer("p", provider="other", priority=1)
    assert isinstance(one(a_pool_view(more_peers=[better]), provider="cloud"), Accept)
    sibling = a_peer("s", provider="cloud", priority=1)
    assert one(a_pool_view(more_peers=[better, sibling]), provider="cloud") == Defer((BetterPool("s", 1),))


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
    request = a_request().changed(requestor=MIN_READY_REQUESTOR, reuse=False)
    ((_, verdict),) = triage([request], view)
    assert verdict == Decline((AtCapacity("instances"),))


def test_launches_at_once_are_limited() -> None:
    requests = [a_request(number=n) for n in (1, 2, 3)]
    verdicts = [v for _, v in triage(requests, a_pool_view(launching=3, max_concurrency=5))]
    assert isinstance(verdicts[1], Accept)
    assert verdicts[2] == Defer((ConcurrencyReached(5),), Usage(instances=1))


def test_larger_set_than_launches_at_once_is_alone_and_not_overtaken() -> None:
    large, small = a_request(*["small"] * 3, number=1), a_request(number=2)
    view = a_pool_view(launching=1, max_concurrency=2)
    assert [type(verdict) for _, verdict in triage([large, small], view)] == [Defer, Defer]
    view = a_pool_view(launching=0, max_concurrency=2)
    assert [type(verdict) for _, verdict in triage([large, small], view)] == [Accept, Defer]


# -- what others wait for -------------------------------------------------------------------------------------------


def test_room_that_another_pool_waits_for_is_left_to_it() -> None:
    ahead = Waiting(RequestId("200-0000000001"), ("200", 0, "0000000001"), Usage(instances=2))
    view = a_pool_view(provider_room=Limits(instances=2), ahead=[ahead])
    first, second = a_request(number=0), a_request(number=2)
    verdicts = [verdict for _, verdict in triage([first, second], view)]
    assert isinstance(verdicts[0], Accept)
    assert verdicts[1] == Defer((NoRoom("instances", 1, 0),), Usage(instances=1), waits_for_provider=True)


def test_request_that_waits_in_both_pools_counts_once() -> None:
    both = a_request("small", "small", number=1)
    ahead = Waiting(both.id, both.order, Usage(instances=2))
    view = a_pool_view(provider_room=Limits(instances=3), ahead=[ahead])
    assert [type(verdict) for _, verdict in triage([both, a_request(number=2)], view)] == [Accept, Accept]


def test_tenants_request_is_not_overtaken_within_its_tenant() -> None:
    tenant = Tenant(Limits(instances=5), Limits(instances=1))
    view = a_pool_view(tenants={"t": tenant})
    requests = [
        a_request("small", "small", number=1, tenant_name="t"),
        a_request(number=2, tenant_name="t"),
        a_request(number=3, tenant_name="other"),
    ]
    assert [type(verdict) for _, verdict in triage(requests, view)] == [Defer, Defer, Accept]


# -- what is about to come ------------------------------------------------------------------------------------------


def test_first_image_is_waited_for_but_not_for_ever() -> None:
    labels = {"small": LabelView(is_ready=False, arrives_by=100.0)}
    assert one(a_pool_view(labels=labels, now=99.0)) == Defer((ImageOnTheWay("small", 100.0),), until=100.0)
    assert one(a_pool_view(labels=labels, now=100.0)) == Decline((ImageMissing("small"),))


def test_return_of_a_pool_is_waited_for_but_not_for_ever() -> None:
    away = Absentee("cloud", "other", frozenset({"rare", "small"}), until=100.0)
    verdict = one(a_pool_view(absent=[away], now=99.0), "rare")
    assert verdict == Defer((OffererAway("cloud", "other", 100.0),), until=100.0)
    assert one(a_pool_view(absent=[away], now=100.0), "rare") == Decline((LabelNotOffered("rare"),))
    assert isinstance(one(a_pool_view(absent=[away], now=99.0), "rare", "other"), Decline)


def test_request_is_not_failed_while_a_pool_that_could_serve_it_is_away() -> None:
    away = Absentee("cloud", "other", frozenset({"small"}), until=100.0)
    assert after_decline(a_request(), POOL_ID, [POOL_ID], 99.0, [away]).state is RequestState.REQUESTED
    assert after_decline(a_request(), POOL_ID, [POOL_ID], 100.0, [away]).state is RequestState.FAILED


# -- zones ----------------------------------------------------------------------------------------------------------


def test_idle_nodes_of_one_request_share_a_zone() -> None:
    idle = [
        an_idle_node(1, ready_at=1.0, zone="a"),
        an_idle_node(2, ready_at=2.0, zone="b"),
        an_idle_node(3, ready_at=3.0, zone="b"),
        an_idle_node(4, ready_at=4.0),
    ]
    verdict = one(a_pool_view(idle=idle), "small", "small", "small", "small")
    assert isinstance(verdict, Accept)
    assert (set(verdict.reuse), verdict.zone) == ({"0000000002", "0000000003", "0000000004", None}, "b")
    verdict = one(a_pool_view(idle=idle), "small")
    assert isinstance(verdict, Accept)
    assert (verdict.reuse, verdict.zone) == (("0000000001",), "a")


# -- launches that broke off ----------------------------------------------------------------------------------------


def test_launches_begun_for_a_request_need_no_more_room() -> None:
    begun = {a_request().id: ["small", "big"]}
    view = a_pool_view(begun=begun, room=Limits(instances=1))
    verdict = one(view, "small", "small", "big")
    assert verdict == Accept((None, None, None), Usage(instances=1), None, frozenset({0, 2}))
    assert isinstance(one(view, "small", "small", "small"), Defer)


def test_idle_nodes_go_before_launches_that_broke_off() -> None:
    view = a_pool_view(begun={a_request().id: ["small"]}, idle=[an_idle_node(1)], room=Limits(instances=0))
    assert one(view, "small") == Accept((NodeId("0000000001"),), Usage())


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


def test_every_reason_says_what_would_have_to_change() -> None:
    assert NoRoom("cores", 8, 4).remedy == "nodes with 8 cores in all have to go, or the limit has to rise"
    for kind in Reason.__subclasses__():
        assert kind.CLAUSE, kind
        assert kind.REMEDY, kind
        names = [f.name for f in fields(kind)]
        reason = kind(**{name: 1 if name in ("wanted", "left", "limit") else name for name in names})
        assert "{" not in f"{reason}{reason.remedy}"
