"""Verdict of a pool on a request, with reasons; and the record of a declined request.

The order of requests, the choice among pools and reservations for earlier requests: test_scheduling.py.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from nodelaunch.decisions.triage import (
    Absentee,
    FreeCapacity,
    LabelView,
    PoolView,
    after_decline,
    judge,
    match_labels,
    need_of,
    nodes_to_evict,
)
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId
from nodelaunch.protocol.pauses import Target
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import (
    Accept,
    AtCapacity,
    ConcurrencyReached,
    Decline,
    Defer,
    HandlerFailed,
    ImageMissing,
    ImageOnTheWay,
    LabelNotOffered,
    LabelUnusable,
    LaunchesFailed,
    NeverFits,
    NoFreeMachine,
    NoRoom,
    OffererAway,
    PoolDisabled,
    PoolNotAllowed,
    PoolPaused,
    ProviderDown,
    Reason,
    TenantFull,
    TenantNeverFits,
    TenantNotAllowed,
    TooFewMachines,
    Verdict,
)
from support.builders import POOL_ID, a_machine, a_pause, a_pool_view, a_request, an_idle_node, some_idle


def one(view: PoolView, free: FreeCapacity, *labels: str, **fields: Any) -> Verdict:
    return judge(a_request(*labels, **fields), view, free)


# -- never ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "labels", "reason"),
    [
        ({"is_enabled": False}, ("small",), PoolDisabled()),
        ({}, ("nothing",), LabelNotOffered("nothing")),
        ({"labels": {"small": LabelView(broken="no flavor")}}, ("small",), LabelUnusable("small", "no flavor")),
        ({"labels": {"small": LabelView(is_ready=False)}}, ("small",), ImageMissing("small")),
        ({"ceiling": Limits(instances=1)}, ("small", "small"), NeverFits("instances", 2, 1)),
        ({"can_launch": False, "machines": [a_machine()]}, ("small", "small"), TooFewMachines("small")),
    ],
)
def test_what_can_never_be_served_is_declined(changes: dict[str, Any], labels: tuple[str, ...], reason: Reason) -> None:
    assert one(a_pool_view(**changes), FreeCapacity(), *labels) == Decline((reason,))


def test_what_can_never_be_served_is_declined_even_while_the_provider_is_down() -> None:
    assert one(a_pool_view(down="no answer"), FreeCapacity(), "nothing") == Decline((LabelNotOffered("nothing"),))


def test_more_than_the_tenant_may_ever_have_is_declined() -> None:
    free = FreeCapacity(tenant=Limits(instances=1), tenant_ceiling=Limits(instances=1))
    verdict = one(a_pool_view(), free, "small", "small", tenant_name="t")
    assert verdict == Decline((TenantNeverFits("t", "instances", 2, 1),))
    assert isinstance(one(a_pool_view(), free, "small", tenant_name="t"), Accept)
    assert isinstance(one(a_pool_view(), FreeCapacity(), "small", "small", tenant_name="other"), Accept)


def test_what_is_known_to_be_possible_is_not_doubted_again() -> None:
    view = a_pool_view(ceiling=Limits(instances=0))
    assert isinstance(judge(a_request(), view, FreeCapacity()), Decline)
    assert isinstance(judge(a_request(), view, FreeCapacity(), is_possible=True), Accept)


# -- not now --------------------------------------------------------------------------------------------------------


def test_paused_pool_is_waited_for_whatever_its_cloud_says() -> None:
    pauses = (a_pause(), a_pause(target=Target.launcher("here"), drains=True, reason="disks"))
    labels = {"small": LabelView(is_ready=False, broken="no flavor", arrives_by=50.0)}
    view = a_pool_view(pauses=pauses, down="no answer", labels=labels, ceiling=Limits(instances=0))
    assert one(view, FreeCapacity()) == Defer(tuple(PoolPaused.of(pause) for pause in pauses))
    assert [reason.remedy for reason in Defer(tuple(map(PoolPaused.of, pauses))).reasons] == [
        "nodelaunch resume provider:cloud",
        "nodelaunch resume launcher:here",
    ]


def test_paused_pool_declines_what_it_does_not_offer_or_may_not_give() -> None:
    assert one(a_pool_view(pauses=(a_pause(),)), FreeCapacity(), "nothing") == Decline((LabelNotOffered("nothing"),))
    barred = a_pool_view(pauses=(a_pause(),), allowed_tenants=frozenset({"t"}))
    assert one(barred, FreeCapacity()) == Decline((PoolNotAllowed(None),))


def test_paused_pool_gives_no_idle_node_and_holds_nobody_back() -> None:
    verdict = one(a_pool_view(pauses=(a_pause(),)), FreeCapacity(idle=some_idle(an_idle_node(1))))
    assert isinstance(verdict, Defer)
    assert not verdict.holds_others_back


def test_provider_that_is_down_is_waited_for() -> None:
    verdict = one(a_pool_view(down="no answer"), FreeCapacity())
    assert verdict == Defer((ProviderDown("no answer"),))
    assert isinstance(verdict, Defer)
    assert not verdict.waits_for_capacity
    assert not verdict.holds_others_back


def test_provider_where_nothing_can_be_launched_gives_what_is_there() -> None:
    view = a_pool_view(launches_down="HTTP 503")
    assert one(view, FreeCapacity()) == Defer((ProviderDown("HTTP 503"),))
    idle = some_idle(an_idle_node(1))
    assert one(view, FreeCapacity(idle=idle)) == Accept((NodeId("0000000001"),), Usage())
    assert one(view, FreeCapacity(idle=idle), "small", "small") == Defer((ProviderDown("HTTP 503"),))
    begun = one(view, FreeCapacity(begun=["small"]))
    assert isinstance(begun, Accept), "a launch that was begun goes on, and waits for the provider itself"


def test_full_tenant_is_waited_for_before_room_is() -> None:
    free = FreeCapacity(pool=Limits(instances=0), tenant=Limits(instances=1), tenant_ceiling=Limits(instances=5))
    verdict = one(a_pool_view(), free, "small", "small", tenant_name="t")
    assert verdict == Defer((TenantFull("t", "instances", 2, 1),), Usage(instances=2))
    free = replace(free, tenant=Limits(instances=-3))
    assert one(a_pool_view(), free, tenant_name="t") == Defer((TenantFull("t", "instances", 1, 0),), Usage(instances=1))
    assert isinstance(one(a_pool_view(), replace(free, pool=Limits())), Accept)


def test_verdict_says_what_is_missing_and_what_to_keep() -> None:
    free = FreeCapacity(pool=Limits(instances=9, cores=4), idle=some_idle(an_idle_node(1)))
    verdict = one(a_pool_view(), free, "big", "big", "small")
    expected = Defer((NoRoom("cores", 8, 4),), Usage(instances=2, cores=8), kept=(NodeId("0000000001"),))
    assert verdict == expected
    assert expected.waits_for_capacity
    assert not expected.holds_others_back


def test_room_of_the_provider_is_waited_for_as_such() -> None:
    verdict = one(a_pool_view(), FreeCapacity(pool=Limits(instances=5), provider=Limits(instances=0)))
    assert verdict == Defer((NoRoom("instances", 1, 0),), Usage(instances=1), waits_for_provider=True)
    verdict = one(a_pool_view(), FreeCapacity(pool=Limits(instances=-2), provider=Limits(instances=1)))
    assert verdict == Defer((NoRoom("instances", 1, 0),), Usage(instances=1))


def test_nodes_to_be_kept_ready_don_t_wait() -> None:
    request = a_request().changed(requestor=MIN_READY_REQUESTOR, reuse=False)
    verdict = judge(request, a_pool_view(), FreeCapacity(pool=Limits(instances=0)))
    assert verdict == Decline((AtCapacity("instances"),))
    verdict = judge(request, a_pool_view(max_concurrency=1), FreeCapacity(launching=1))
    assert verdict == Decline((AtCapacity("room"),))


def test_launches_at_once_are_limited() -> None:
    view = a_pool_view(max_concurrency=5)
    assert isinstance(one(view, FreeCapacity(launching=4)), Accept)
    assert one(view, FreeCapacity(launching=5)) == Defer((ConcurrencyReached(5),), Usage(instances=1))
    assert isinstance(one(a_pool_view(), FreeCapacity(launching=500)), Accept)


def test_larger_set_than_launches_at_once_is_alone_and_not_overtaken() -> None:
    view = a_pool_view(max_concurrency=2)
    assert isinstance(one(view, FreeCapacity(launching=1), *["small"] * 3), Defer)
    assert isinstance(one(view, FreeCapacity(launching=0), *["small"] * 3), Accept)
    assert one(view, FreeCapacity(is_overtaking=True)) == Defer((ConcurrencyReached(2),), Usage(instances=1))
    idle = FreeCapacity(is_overtaking=True, launching=2, idle=some_idle(an_idle_node(1)))
    assert isinstance(one(view, idle), Accept)


# -- what is about to come ------------------------------------------------------------------------------------------


def test_first_image_is_waited_for_but_not_for_ever() -> None:
    view = a_pool_view(labels={"small": LabelView(is_ready=False, arrives_by=100.0)})
    assert one(view, FreeCapacity(now=99.0)) == Defer((ImageOnTheWay("small", 100.0),), until=100.0)
    assert one(view, FreeCapacity(now=100.0)) == Decline((ImageMissing("small"),))


def test_return_of_a_pool_is_waited_for_but_not_for_ever() -> None:
    away = Absentee("cloud", "other", frozenset({"rare", "small"}), until=100.0)
    verdict = one(a_pool_view(), FreeCapacity(absent=[away], now=99.0), "rare")
    assert verdict == Defer((OffererAway("cloud", "other", 100.0),), until=100.0)
    assert one(a_pool_view(), FreeCapacity(absent=[away], now=100.0), "rare") == Decline((LabelNotOffered("rare"),))
    assert isinstance(one(a_pool_view(), FreeCapacity(absent=[away], now=99.0), "rare", "other"), Decline)


def test_request_is_not_failed_while_a_pool_that_could_serve_it_is_away() -> None:
    away = Absentee("cloud", "other", frozenset({"small"}), until=100.0)
    assert after_decline(a_request(), [POOL_ID], [POOL_ID], 99.0, [away]).state is RequestState.REQUESTED
    assert after_decline(a_request(), [POOL_ID], [POOL_ID], 100.0, [away]).state is RequestState.FAILED


# -- zones ----------------------------------------------------------------------------------------------------------


def test_idle_nodes_of_one_request_share_a_zone() -> None:
    idle = some_idle(
        an_idle_node(1, ready_at=1.0, zone="a"),
        an_idle_node(2, ready_at=2.0, zone="b"),
        an_idle_node(3, ready_at=3.0, zone="b"),
        an_idle_node(4, ready_at=4.0),
    )
    verdict = one(a_pool_view(), FreeCapacity(idle=idle), "small", "small", "small", "small")
    assert isinstance(verdict, Accept)
    assert (set(verdict.reuse), verdict.zone) == ({"0000000002", "0000000003", "0000000004", None}, "b")
    verdict = one(a_pool_view(), FreeCapacity(idle=idle), "small")
    assert isinstance(verdict, Accept)
    assert (verdict.reuse, verdict.zone) == (("0000000001",), "a")


# -- launches that broke off ----------------------------------------------------------------------------------------


def test_launches_begun_for_a_request_need_no_more_room() -> None:
    free = FreeCapacity(begun=["small", "big"], pool=Limits(instances=1))
    verdict = one(a_pool_view(), free, "small", "small", "big")
    assert verdict == Accept((None, None, None), Usage(instances=1), None, frozenset({0, 2}))
    assert isinstance(one(a_pool_view(), free, "small", "small", "small"), Defer)


def test_launches_begun_for_a_request_need_no_more_of_the_tenants_share() -> None:
    free = FreeCapacity(begun=["small"], tenant=Limits(instances=1), tenant_ceiling=Limits(instances=2))
    assert isinstance(one(a_pool_view(), free, "small", "small", tenant_name="t"), Accept)


def test_idle_nodes_go_before_launches_that_broke_off() -> None:
    free = FreeCapacity(begun=["small"], idle=some_idle(an_idle_node(1)), pool=Limits(instances=0))
    assert one(a_pool_view(), free) == Accept((NodeId("0000000001"),), Usage())


def test_labels_that_are_not_offered_need_nothing() -> None:
    assert need_of(["nothing"], a_pool_view()) == Usage()
    assert need_of(["nothing", "big"], a_pool_view()) == Usage(instances=1, cores=4)


# -- reuse ----------------------------------------------------------------------------------------------------------


def test_idle_nodes_are_used_first_the_oldest_before_others() -> None:
    nodes = [an_idle_node(1, ready_at=5.0), an_idle_node(2, ready_at=3.0), an_idle_node(3, "big")]
    free = FreeCapacity(idle=some_idle(*nodes), pool=Limits(instances=1))
    assert one(a_pool_view(), free) == Accept((NodeId("0000000002"),), Usage())
    verdict = one(a_pool_view(), free, "small", "big", "small", "small")
    assert isinstance(verdict, Accept)
    first, big, second, launched = verdict.reuse
    assert ({first, second}, big, launched) == ({"0000000001", "0000000002"}, "0000000003", None)
    assert verdict.need == Usage(instances=1)


def test_request_may_refuse_idle_nodes() -> None:
    free = FreeCapacity(idle=some_idle(an_idle_node(1)))
    assert one(a_pool_view(), free, reuse=False) == Accept((None,), Usage(instances=1))


def test_machines_that_exist_are_waited_for_and_kept() -> None:
    view = a_pool_view(can_launch=False, machines=[a_machine(), a_machine(), a_machine("big")])
    free = FreeCapacity(idle=some_idle(an_idle_node(1), an_idle_node(2, "big")))
    waits = Defer((NoFreeMachine("small"),), Usage(instances=1), kept=(NodeId("0000000001"),))
    assert one(view, free, "small", "small") == waits
    assert one(view, free, "big", reuse=False) == Accept((NodeId("0000000002"),), Usage())


def test_matching_finds_a_way_where_there_is_one() -> None:
    offers = [frozenset({"a", "b"}), frozenset({"a"})]
    assert match_labels(["a", "b"], offers) == [1, 0]
    assert match_labels(["b", "b"], offers) == [0, None]
    assert match_labels([], offers) == []


# -- declining and freeing capacity -----------------------------------------------------------------------------------


def test_last_registered_pool_fails_the_request() -> None:
    request = a_request(declined_by=("gone",))
    waiting = after_decline(request, ["a"], ["a", "b"], 5.0)
    assert (waiting.state, waiting.declined_by, waiting.state_time) == (RequestState.REQUESTED, ("gone", "a"), 5.0)
    failed = after_decline(waiting, ["b"], ["a", "b"], 6.0)
    assert (failed.state, failed.declined_by, failed.nodes) == (RequestState.FAILED, ("gone", "a", "b"), ())
    assert after_decline(waiting, ["a"], ["a"], 7.0).declined_by == ("gone", "a")


def test_several_pools_give_up_at_once() -> None:
    both = after_decline(a_request(declined_by=("a",)), ["b", "a", "c"], ["a", "b", "c"], 5.0)
    assert (both.state, both.declined_by) == (RequestState.FAILED, ("a", "b", "c"))
    assert after_decline(a_request(), ["b", "c"], ["a", "b", "c"], 5.0).state is RequestState.REQUESTED


def test_room_is_made_from_the_longest_ready_and_no_more_than_needed() -> None:
    idle = [an_idle_node(n, ready_at=float(10 - n)) for n in range(1, 6)]
    need, free = Usage(instances=3), Limits(instances=1)
    assert nodes_to_evict(need, free, Usage(), idle) == ("0000000005", "0000000004")
    assert nodes_to_evict(need, free, Usage(instances=1), idle) == ("0000000005",)
    assert nodes_to_evict(need, free, Usage(instances=2), idle) == ()
    assert nodes_to_evict(Usage(instances=9), free, Usage(), idle) == ()
    assert nodes_to_evict(Usage(cores=1), Limits(cores=0), Usage(), idle) == ()


def test_reasons_are_clauses_for_people() -> None:
    assert str(NoRoom("cores", 8, 4)) == "needs 8 cores; 4 available after reservations for earlier requests"
    assert str(LaunchesFailed("boom")) == "the nodes could not be launched: boom"
    assert str(HandlerFailed("x")) == "an internal error occurred: x"


def test_every_reason_says_what_would_have_to_change() -> None:
    assert NoRoom("cores", 8, 4).remedy == "wait until nodes with 8 cores in total are deleted, or raise the limit"
    kinds = [kind for kind in (*Reason.__subclasses__(), *TenantNotAllowed.__subclasses__()) if kind.CLAUSE]
    assert len(kinds) > 25
    for kind in kinds:
        names = [f.name for f in fields(kind)]
        reason = kind(**{name: 1 if name in ("wanted", "left", "limit") else name for name in names})
        assert reason.remedy, kind
        assert "{" not in f"{reason}{reason.remedy}"
