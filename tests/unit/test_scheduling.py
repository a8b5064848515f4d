"""Choice of the request to serve next, and of its pool; and the number of requests examined for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

from nodelaunch.decisions.answers import OPEN_S, TURN_S
from nodelaunch.decisions.scheduling import Accepted, Declined, Schedule
from nodelaunch.decisions.triage import Absentee, LabelView, PoolKey, PoolView
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.records import NodeRequest, turn_of
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.verdicts import (
    Accept,
    BetterPool,
    ConcurrencyReached,
    Decline,
    Defer,
    ImageOnTheWay,
    LabelNotOffered,
    LeftToOthers,
    NobodyLeft,
    NoFreeMachine,
    NoRoom,
    OffererAway,
    PoolPaused,
    ProviderDown,
    ProviderWanted,
    TenantFull,
    TurnOfAnother,
)
from support.builders import POOL_ID, a_machine, a_pause, a_peer, a_pool_view, a_request, an_idle_node
from support.facts import StaticFacts

MAIN = ("cloud", "main")


class Harness:
    """A schedule with facts, notified of changes as by a launcher."""

    def __init__(self, *views: PoolView, **facts: Any) -> None:
        self.facts = StaticFacts(*(views or (a_pool_view(),)), **facts)
        self.schedule = Schedule()

    def put(self, *requests: NodeRequest, **how: bool) -> None:
        for request in requests:
            self.schedule.put(request, **how)

    def decide(self) -> list[tuple[int, str]]:
        """Number of each request that is decided on, and by which pool; "declined" if by none."""
        decisions = self.schedule.decide(self.facts)
        return [(_number(d.request), d.key[1] if isinstance(d, Accepted) else "declined") for d in decisions]

    def accepted(self, *requests: NodeRequest) -> list[int]:
        """Numbers of those that are accepted, in order."""
        self.put(*requests)
        return [number for number, pool in self.decide() if pool != "declined"]

    def capacity_changed(self, key: PoolKey) -> None:
        self.schedule.pool_changed(key)
        self.schedule.provider_changed(key[0])

    def free(self, request: NodeRequest) -> None:
        self.capacity_changed(self.facts.free(request.id).key)

    def judged_by(self, key: PoolKey) -> int:
        return sum(pool == key for _, pool, _ in self.facts.told)

    @property
    def judged(self) -> int:
        return self.schedule.counters.heads_judged

    def verdict(self, request: NodeRequest, key: PoolKey = MAIN) -> object:
        return self.schedule.verdict(request.id, key, self.facts)


def _number(request: NodeRequest) -> int:
    return int(request.id.partition("-")[2])


def full(pool: str = "main", **fields: Any) -> PoolView:
    """Return a pool without free capacity."""
    return a_pool_view(pool, limits=Limits(instances=0), **fields)


def with_limit(instances: int, pool: str = "main", **fields: Any) -> PoolView:
    return a_pool_view(pool, limits=Limits(instances=instances), **fields)


def many(count: int, *labels: str, start: int = 1, **fields: Any) -> list[NodeRequest]:
    return [a_request(*labels, number=number, **fields) for number in range(start, start + count)]


def peers(*others: RegisteredPool) -> dict[str, Sequence[RegisteredPool]]:
    return {"peers": others}


# -- order ----------------------------------------------------------------------------------------------------------


def test_priority_goes_first_as_text_then_relative_priority_then_sequence() -> None:
    harness = Harness()
    requests = [
        a_request("big", number=1, priority="300"),
        a_request(number=2, priority="200", relative_priority=7),
        a_request(number=3, priority="200", relative_priority=2),
        a_request("big", number=4, priority="200", relative_priority=2),
        a_request(number=5, priority="100", relative_priority=9),
    ]
    assert harness.accepted(*requests) == [5, 3, 4, 2, 1]


def test_what_is_accepted_is_not_there_for_the_next() -> None:
    harness = Harness(with_limit(3))
    assert harness.accepted(*many(4)) == [1, 2, 3]
    harness.free(many(1)[0])
    assert harness.accepted() == [4]


def test_no_idle_node_is_given_twice() -> None:
    harness = Harness(idle={MAIN: [an_idle_node(1)]})
    harness.put(*many(2))
    reused = [d.verdict.reuse for d in harness.schedule.decide(harness.facts) if isinstance(d, Accepted)]
    assert reused == [(NodeId("0000000001"),), (None,)]


def test_what_is_asked_for_with_another_priority_is_served_in_its_new_place() -> None:
    harness = Harness(with_limit(1))
    first, second, third = many(3)
    assert harness.accepted(first, second, third) == [1]
    harness.put(third.changed(relative_priority=-1))
    harness.put(second)
    harness.decide()
    harness.free(first)
    assert harness.accepted() == [3]


# -- what earlier requests wait for ---------------------------------------------------------------------------------


def test_what_a_request_waits_for_is_kept_for_it() -> None:
    harness = Harness(a_pool_view(limits=Limits(instances=9, cores=4)))
    large, big, small = a_request("big", "big", number=1), a_request("big", number=2), a_request(number=3)
    assert harness.accepted(large, big, small) == [3]
    assert harness.verdict(large) == Defer((NoRoom("cores", 8, 4),), Usage(instances=2, cores=8))
    assert harness.verdict(big) == Defer((NoRoom("cores", 4, 0),), Usage(instances=1, cores=4))


def test_what_was_kept_for_a_request_that_is_withdrawn_is_given_to_the_next() -> None:
    harness = Harness(with_limit(2))
    waits, small = a_request("small", "small", "small", number=1), a_request(number=2)
    assert harness.accepted(waits, small) == []
    harness.schedule.withdraw(waits.id)
    assert harness.accepted() == [2]


def test_request_that_comes_forward_is_not_held_up_by_those_it_passes() -> None:
    harness = Harness(with_limit(2))
    waits, small = a_request("small", "small", "small", number=1), a_request(number=2)
    assert harness.accepted(waits, small) == []
    assert harness.accepted(a_request(number=3, priority="100")) == [3]


def test_request_that_comes_forward_is_looked_at_in_every_pool_of_a_provider() -> None:
    harness = Harness(with_limit(9), with_limit(9, "other"), providers={"cloud": Limits(instances=2)})
    waits, small = a_request("small", "small", "small", number=1), a_request(number=2)
    assert harness.accepted(waits, small) == []
    assert harness.accepted(a_request(number=3, priority="100")) == [3]


def test_request_behind_another_of_its_kind_is_not_held_up_by_those_it_passes_alone() -> None:
    harness = Harness(with_limit(2), **peers())
    waits, small = a_request("small", "small", "small", number=2), a_request(number=3)
    assert harness.accepted(waits, small) == []
    before = harness.judged
    harness.put(a_request(number=1, priority="300"))
    assert (harness.decide(), harness.judged) == ([], before)


def test_line_that_was_empty_forgets_what_was_kept_for_others_then() -> None:
    harness = Harness(with_limit(2))
    waits, small = a_request("small", "small", "small", number=1), a_request(number=2)
    assert harness.accepted(waits, small) == []
    harness.schedule.withdraw(small.id)
    harness.schedule.withdraw(waits.id)
    assert harness.accepted(a_request(number=3)) == [3]


def test_room_that_another_pool_waits_for_is_left_to_it() -> None:
    one, other = a_pool_view("main", labels={"a": LabelView()}), a_pool_view("other", labels={"b": LabelView()})
    harness = Harness(one, other, providers={"cloud": Limits(instances=2)})
    waits, later = a_request("a", "a", "a", number=1), a_request("b", number=2)
    assert harness.accepted(waits, later) == []
    said = harness.verdict(later, ("cloud", "other"))
    assert said == Defer((NoRoom("instances", 1, 0),), Usage(instances=1), waits_for_provider=True)
    assert harness.schedule.kept.awaits_provider(MAIN)
    assert harness.schedule.kept.is_full(("cloud", "other"))
    harness.schedule.withdraw(waits.id)
    assert harness.accepted() == [2]
    assert not harness.schedule.kept.awaits_provider(MAIN)


def test_pool_that_does_not_share_the_providers_quota_is_not_held_up_there() -> None:
    apart = a_pool_view("apart", labels={"b": LabelView()}, shares_provider_quota=False)
    harness = Harness(a_pool_view(labels={"a": LabelView()}), apart, providers={"cloud": Limits(instances=0)})
    assert harness.accepted(a_request("a", number=1), a_request("b", number=2)) == [2]


def test_request_that_waits_in_both_pools_counts_once() -> None:
    harness = Harness(a_pool_view(), a_pool_view("other"), providers={"cloud": Limits(instances=3)})
    big = a_request("small", "small", number=1)
    assert harness.accepted(big, a_request(number=2)) == [1, 2]
    waits = a_request("big", "big", number=3)
    harness.facts.providers["cloud"] = Limits(instances=6)
    assert harness.accepted(waits, a_request(number=4)) == [3, 4]


def test_machines_that_exist_are_kept_for_the_first_and_given_when_it_goes() -> None:
    machines = [a_machine(), a_machine(), a_machine("big")]
    nodes = [an_idle_node(1), an_idle_node(2, "big")]
    harness = Harness(a_pool_view(can_launch=False, machines=machines), idle={MAIN: nodes})
    waits, small, big = a_request("small", "small", number=1), a_request(number=2), a_request("big", number=3)
    assert harness.accepted(waits, small, big) == [3]
    assert harness.verdict(small) == Defer((NoFreeMachine("small"),), Usage(instances=1))
    harness.schedule.withdraw(waits.id)
    assert harness.accepted() == [2]


def test_larger_set_than_launches_at_once_is_not_overtaken_and_holds_nobody_up_when_it_goes() -> None:
    harness = Harness(a_pool_view(max_concurrency=2))
    harness.facts.running["cloud"] = 1
    large, small = a_request(*["small"] * 3, number=1), a_request(number=2)
    assert harness.accepted(large, small) == []
    assert harness.verdict(small) == Defer((ConcurrencyReached(2),), Usage(instances=1))
    harness.schedule.withdraw(large.id)
    assert harness.accepted() == [2]


def test_larger_set_than_launches_at_once_is_alone() -> None:
    harness = Harness(a_pool_view(max_concurrency=2))
    large, small = a_request(*["small"] * 3, number=1), a_request(number=2)
    assert harness.accepted(large, small) == [1]
    harness.facts.grants[large.id].launching = 0
    harness.capacity_changed(MAIN)
    assert harness.accepted() == [2]


def test_nodes_to_be_kept_ready_get_what_is_to_spare_or_are_declined() -> None:
    harness = Harness(with_limit(1))
    spare = [request.changed(requestor=MIN_READY_REQUESTOR) for request in many(2)]
    harness.put(*spare)
    assert harness.decide() == [(1, "main"), (2, "declined")]
    harness.facts.free(spare[0].id)
    harness.put(a_request(number=3).changed(requestor=MIN_READY_REQUESTOR))
    assert harness.decide() == [(3, "main")]


# -- tenants --------------------------------------------------------------------------------------------------------


def tenants(**limits: int) -> dict[str, dict[str, Limits]]:
    return {"tenants": {name: Limits(instances=count) for name, count in limits.items()}}


def test_full_tenant_waits_and_others_go_on() -> None:
    harness = Harness(**tenants(t=1))
    first, second = many(2, tenant_name="t")
    assert harness.accepted(first, second, a_request(number=3, tenant_name="u")) == [1, 3]
    assert harness.verdict(second) == Defer((TenantFull("t", "instances", 1, 0),), Usage(instances=1))
    assert not harness.schedule.kept.is_full(MAIN)
    harness.facts.free(first.id)
    harness.schedule.tenant_changed("t")
    assert harness.accepted() == [2]


def test_tenants_request_is_not_overtaken_within_its_tenant() -> None:
    harness = Harness(**tenants(t=5))
    assert harness.accepted(a_request(*["small"] * 4, number=1, tenant_name="t")) == [1]
    large, small = a_request("small", "small", number=2, tenant_name="t"), a_request(number=3, tenant_name="t")
    assert harness.accepted(large, small, a_request(number=4, tenant_name="other")) == [4]
    harness.schedule.withdraw(large.id)
    assert harness.accepted() == [3]


def test_tenant_that_is_full_is_not_asked_for_in_every_pool() -> None:
    harness = Harness(*(a_pool_view(f"p{n}") for n in range(20)), **tenants(t=1))
    first, second = many(2, tenant_name="t")
    assert harness.accepted(first, second) == [1]
    assert harness.judged == 2
    assert isinstance(harness.verdict(second, ("cloud", "p7")), Defer)


def test_tenant_is_asked_for_where_less_is_needed() -> None:
    cheap = a_pool_view("cheap", priority=200, labels={"big": LabelView(Usage(instances=1, cores=1))})
    harness = Harness(a_pool_view(), cheap, tenants={"t": Limits(instances=9, cores=4)})
    assert harness.accepted(a_request("big", number=1, tenant_name="t")) == [1]
    harness.facts.tenants["t"] = Limits(instances=9, cores=5)
    harness.put(a_request("big", number=2, tenant_name="t"))
    assert harness.decide() == []
    assert isinstance(harness.verdict(a_request("big", number=2)), Defer)


def test_nobody_waits_behind_a_request_whose_tenant_is_full_by_now() -> None:
    harness = Harness(with_limit(1), a_pool_view("other", labels={"x": LabelView()}), **tenants(t=2))
    waits, other = a_request("small", "small", number=1, tenant_name="t"), a_request(number=2)
    assert harness.accepted(waits, other) == []
    assert harness.accepted(a_request("x", number=3, tenant_name="t")) == [3, 2]
    assert isinstance(harness.verdict(waits), Defer)


def test_line_that_is_looked_at_twice_in_one_pass_is_served_once() -> None:
    harness = Harness(with_limit(1), a_pool_view("other", labels={"x": LabelView()}), **tenants(t=2))
    waits, other = a_request("small", "small", number=1, tenant_name="t"), a_request(number=3)
    assert harness.accepted(waits, other, a_request(number=4)) == []
    harness.capacity_changed(MAIN)
    assert harness.accepted(a_request("x", number=2, tenant_name="t")) == [2, 3]


def test_room_is_kept_for_a_request_whose_tenant_still_has_its_share() -> None:
    for limits in ({}, tenants(t=3)):
        harness = Harness(with_limit(1), a_pool_view("other", labels={"x": LabelView()}), **limits)
        waits, other = a_request("small", "small", number=1, tenant_name="t"), a_request(number=2)
        assert harness.accepted(waits, other) == []
        assert harness.accepted(a_request("x", number=3, tenant_name="t")) == [3]


def test_room_is_kept_for_a_request_that_is_being_written_whatever_its_tenant_has() -> None:
    broken = a_pool_view("broken", labels={"small": LabelView(broken="no flavor")})
    harness = Harness(with_limit(1), broken, a_pool_view("other", labels={"x": LabelView()}), **tenants(t=2))
    harness.put(a_request("small", "small", number=1, tenant_name="t"), a_request("big", number=2))
    assert harness.decide() == [(1, "declined")]
    assert harness.accepted(a_request("x", number=3, tenant_name="t")) == [3]


# -- choice among pools ---------------------------------------------------------------------------------------------


def test_smallest_priority_number_goes_first_then_idle_nodes_then_most_room() -> None:
    views = [
        with_limit(1, "first", priority=50),
        with_limit(1, "idle"),
        with_limit(9, "empty", provider="two"),
        with_limit(5, "smaller", provider="three"),
        with_limit(50, "last", priority=200),
    ]
    harness = Harness(*views, idle={("cloud", "idle"): [an_idle_node(1)]})
    harness.put(*many(4))
    assert [pool for _, pool in harness.decide()] == ["first", "idle", "empty", "empty"]


def test_pool_where_the_label_fails_goes_last_among_equals_but_goes_before_none() -> None:
    """No request waits, or is declined, because of it; a pool of a larger priority number is no equal."""
    views = [with_limit(9, "fails"), with_limit(1, "sound", provider="two"), with_limit(9, "last", priority=200)]
    harness = Harness(*views)
    harness.facts.doubtful.add((("cloud", "fails"), "small"))
    harness.put(*many(2), *many(1, "big", start=3), *many(1, "small", "big", start=4))
    assert harness.decide() == [(1, "sound"), (2, "fails"), (3, "fails"), (4, "fails")]


def test_pool_where_the_label_fails_gives_the_nodes_it_has() -> None:
    harness = Harness(with_limit(9, "fails"), with_limit(9, "sound"), idle={("cloud", "fails"): [an_idle_node(1)]})
    harness.facts.doubtful.add((("cloud", "fails"), "small"))
    harness.put(*many(1), *many(1, "small", "small", start=2))
    assert harness.decide() == [(1, "fails"), (2, "sound")]


def test_requests_are_spread_over_pools_of_the_same_room() -> None:
    harness = Harness(*(with_limit(4, f"p{n}") for n in range(4)))
    harness.put(*many(8))
    assert sorted(pool for _, pool in harness.decide()) == [f"p{n}" for n in range(4) for _ in range(2)]


def test_pool_with_fewest_instances_goes_first_where_room_has_no_limit() -> None:
    harness = Harness(*(a_pool_view(name, limits=Limits()) for name in ("a", "b")))
    harness.facts.taken["cloud", "a"] = Usage(instances=5)
    harness.put(*many(2))
    assert [pool for _, pool in harness.decide()] == ["b", "b"]


def test_launches_that_broke_off_are_resumed_where_they_began() -> None:
    harness = Harness(with_limit(9, "main"), with_limit(2, "begun"))
    request = a_request("small")
    harness.facts.interrupted[request.id, ("cloud", "begun")] = ["small"]
    harness.put(request, is_alone=True)
    (decision,) = harness.schedule.decide(harness.facts)
    assert decision == Accepted(request, ("cloud", "begun"), Accept((None,), Usage(), None, frozenset({0})))


def test_launches_that_broke_off_are_resumed_in_a_pool_without_room() -> None:
    harness = Harness(full(down="no answer"))
    request = a_request(number=2)
    harness.facts.interrupted[request.id, MAIN] = ["small"]
    harness.put(request, is_alone=True)
    harness.put(a_request(number=1))
    assert harness.decide() == []
    harness.facts.change(full())
    harness.capacity_changed(MAIN)
    assert harness.decide() == [(2, "main")]


def test_wanted_provider_goes_first_even_while_paused() -> None:
    paused = a_peer("p", provider="wanted", is_paused=True)
    harness = Harness(**peers(paused))
    wanted = a_request(provider="wanted")
    assert harness.accepted(wanted) == []
    assert harness.verdict(wanted) == Defer((ProviderWanted("wanted"),))
    assert harness.accepted(a_request(number=2, provider="wanted", declined_by=("p",))) == [2]
    assert harness.accepted(a_request(number=3, provider="cloud"), a_request(number=4, provider="absent")) == [3, 4]


def test_wanted_provider_that_an_operator_paused_is_not_waited_for() -> None:
    stopped = a_peer("p", provider="wanted", is_paused=True, is_stopped=True)
    harness = Harness(**peers(stopped))
    assert harness.accepted(a_request(provider="wanted")) == [1]


def test_wanted_provider_that_an_operator_paused_is_waited_for_where_nobody_else_offers_it() -> None:
    stopped = a_peer("p", "rare", provider="wanted", is_paused=True, is_stopped=True)
    harness = Harness(**peers(stopped))
    request = a_request("rare", provider="wanted")
    assert harness.accepted(request) == []
    assert harness.verdict(request) == Defer((ProviderWanted("wanted"),))


def test_paused_pool_leaves_requests_to_one_of_a_larger_number_until_it_is_resumed() -> None:
    harness = Harness(a_pool_view(pauses=(a_pause(),)), a_pool_view("second", priority=200))
    assert [*harness.accepted(a_request(number=1)), harness.judged_by(MAIN)] == [1, 1]
    alone = Harness(a_pool_view(pauses=(a_pause(),)))
    assert alone.accepted(*many(3)) == []
    assert alone.verdict(a_request(number=3)) == Defer((PoolPaused.of(a_pause()),))
    alone.facts.change(a_pool_view())
    alone.capacity_changed(MAIN)
    assert alone.accepted() == [1, 2, 3]


def test_many_that_wait_for_a_paused_pool_are_judged_once() -> None:
    harness = Harness(a_pool_view(pauses=(a_pause(),)))
    harness.accepted(*many(100))
    assert harness.judged == 1


def test_wanted_provider_does_not_wait_for_better_pools_of_others() -> None:
    """The better pool leaves the request to the wanted provider: if the wanted provider also yielded, no pool would
    serve it.
    """
    better = a_peer("better", provider="elsewhere", priority=50)
    harness = Harness(**peers(better))
    assert harness.accepted(a_request(number=1, provider="cloud"), a_request(number=2)) == [1]


def test_wanted_provider_yields_to_better_pools_of_its_own() -> None:
    better, sibling = a_peer("p", provider="other", priority=1), a_peer("s", provider="cloud", priority=1)
    harness = Harness(**peers(better, sibling))
    request = a_request(provider="cloud")
    assert harness.accepted(request) == []
    assert harness.verdict(request) == Defer((BetterPool("s", 1),))


def test_own_pools_of_the_wanted_provider_are_the_only_ones() -> None:
    harness = Harness(a_pool_view(priority=1), a_pool_view("full", provider="two", limits=Limits(instances=0)))
    request = a_request(provider="two")
    assert harness.accepted(request) == []
    assert harness.verdict(request) == Defer((ProviderWanted("two"),))


def test_better_pool_of_another_process_goes_first_unless_it_is_paused_or_has_declined() -> None:
    harness = Harness(**peers(a_peer("p", priority=50)))
    request = a_request()
    assert harness.accepted(request, a_request(number=2, declined_by=("p",))) == [2]
    assert harness.verdict(request) == Defer((BetterPool("p", 50),))
    harness.facts.pause("p")
    harness.schedule.wake_all()
    assert harness.accepted() == [1]
    assert Harness(**peers(a_peer("p", priority=150))).accepted(a_request()) == [1]


def test_what_is_left_to_a_better_pool_keeps_nothing_here() -> None:
    harness = Harness(with_limit(1), **peers(a_peer("p", "small", priority=50, is_paused=True)))
    assert harness.accepted(a_request("small", "small", number=1), a_request("big", number=2)) == []
    harness.facts.pause("p", is_paused=False)
    harness.schedule.wake_all()
    assert harness.accepted() == [2]
    assert not harness.schedule.kept.is_full(MAIN)


def test_a_tenants_share_is_not_kept_for_what_is_left_to_a_better_pool() -> None:
    harness = Harness(**peers(a_peer("p", "small", priority=50, is_paused=True)), **tenants(t=2))
    large, other = a_request("small", "small", number=2, tenant_name="t"), a_request("big", number=3, tenant_name="t")
    assert harness.accepted(a_request(tenant_name="t"), large, other) == [1]
    harness.facts.pause("p", is_paused=False)
    harness.schedule.wake_all()
    assert harness.accepted() == [3]


def test_a_full_tenants_request_is_asked_for_in_a_better_pool_when_others_are_not_to_be_asked() -> None:
    better = a_pool_view("main", provider="other", priority=50, down="no answer")
    harness = Harness(a_pool_view(), better, **peers(a_peer("p", "small", priority=75, is_paused=True)), **tenants(t=2))
    large = a_request("small", "small", number=2, tenant_name="t")
    assert harness.accepted(a_request(tenant_name="t"), large) == [1]
    harness.facts.change(replace(better, down=None))
    harness.capacity_changed(better.key)
    harness.facts.pause("p", is_paused=False)
    harness.schedule.wake_all()
    assert harness.accepted(a_request("big", number=3, tenant_name="t")) == []
    assert harness.verdict(large, better.key) == Defer((TenantFull("t", "instances", 2, 1),), Usage(instances=2))
    assert harness.verdict(large) == Defer((BetterPool(better.pool_id, 50),))


def test_own_pool_that_is_full_or_down_is_passed_over_and_one_that_soon_has_its_image_is_not() -> None:
    assert Harness(full("better", priority=50), a_pool_view()).accepted(a_request()) == [1]
    assert Harness(a_pool_view("better", priority=50, down="no answer"), a_pool_view()).accepted(a_request()) == [1]
    soon = {"small": LabelView(is_ready=False, arrives_by=100.0)}
    harness = Harness(a_pool_view("better", priority=50, labels=soon), a_pool_view())
    request = a_request()
    assert harness.accepted(request) == []
    assert harness.verdict(request, ("cloud", "better")) == Defer((ImageOnTheWay("small", 100.0),), until=100.0)
    assert harness.verdict(request) == Defer((BetterPool("cloud-better", 50),))


def test_label_we_lack_is_left_to_those_who_have_it() -> None:
    harness = Harness(**peers(a_peer("p", "small", "special")))
    request = a_request("small", "special")
    assert harness.accepted(request) == []
    assert harness.verdict(request) == Defer((LeftToOthers("special"),))
    harness.put(a_request("small", "special", number=2, declined_by=("p",)))
    (decision,) = harness.schedule.decide(harness.facts)
    assert isinstance(decision, Declined)
    assert decision.verdicts == {MAIN: Decline((LabelNotOffered("special"),))}


def test_request_for_no_label_is_served_by_anybody() -> None:
    harness = Harness()
    harness.put(a_request().changed(node_types=()))
    assert harness.decide() == [(1, "main")]


# -- launchers take turns -------------------------------------------------------------------------------------------


def of_turn(turn: int, count: int = 1, launchers: int = 2) -> list[NodeRequest]:
    """The first requests for which it is the turn of the launcher with this number."""
    requests = (a_request(number=number) for number in itertools.count(1))
    return list(itertools.islice((r for r in requests if turn_of(r.id, launchers) == turn), count))


def beside(*others: str, **fields: Any) -> Harness:
    """A launcher between others, each with a pool; ours comes where `OWN_LAUNCHER` does in their order."""
    theirs = [a_peer(f"p-{name}", "small", launcher=name, **fields) for name in others]
    harness = Harness(a_pool_view(limits=Limits(), ceiling=Limits()), peers=theirs)
    harness.schedule.share_among(harness.facts.launchers)
    return harness


def test_launchers_of_equal_priority_share_requests_out() -> None:
    first, second = beside("z"), beside("a")
    requests = [a_request(number=number) for number in range(1, 200)]
    mine, theirs = first.accepted(*requests), second.accepted(*requests)
    assert sorted(mine + theirs) == list(range(1, 200))
    assert 60 < len(mine) < 140


def test_the_launcher_whose_turn_it_is_is_named() -> None:
    harness = beside("a")
    (request,) = of_turn(0)
    assert harness.accepted(request) == []
    verdict = harness.verdict(request)
    assert verdict == Defer((TurnOfAnother("p-a"),))
    assert harness.judged == 0


def test_a_launcher_that_is_full_has_no_turn() -> None:
    harness = beside("a")
    theirs = of_turn(0, 2)
    assert harness.accepted(*theirs) == []
    harness.facts.pause("p-a")
    harness.schedule.wake_all()
    assert len(harness.accepted()) == 2


def test_a_launcher_that_is_full_goes_on_waiting_for_room() -> None:
    """If it left the request to others meanwhile, it would not be paused any more, and have its turn again."""
    harness = Harness(full(), peers=[a_peer("p-a", "small", launcher="a")])
    harness.schedule.share_among(2)
    (mine,) = of_turn(1)
    assert harness.accepted(mine) == []
    assert harness.schedule.kept.is_full(MAIN)
    harness.facts.pause(POOL_ID)
    harness.schedule.wake_all()
    assert harness.accepted() == []
    assert harness.schedule.kept.is_full(MAIN)
    harness.facts.change(with_limit(1))
    harness.capacity_changed(MAIN)
    assert harness.accepted() == [_number(mine)]


def test_a_launcher_that_lets_its_turn_pass_is_not_waited_for_again_soon() -> None:
    harness = beside("a")
    first, second, third, fourth, fifth = of_turn(0, 5)
    assert harness.accepted(first, second) == []
    alarm = harness.schedule.next_alarm
    assert alarm == TURN_S
    harness.facts.now = alarm
    harness.schedule.time_passed(alarm)
    assert harness.accepted(third) == [_number(each) for each in (first, second, third)]
    harness.facts.now += OPEN_S - 0.1
    harness.facts.pause("p-a", is_paused=False)  # independent of changes to pools meanwhile
    harness.schedule.wake_all()
    assert harness.accepted(fourth) == [_number(fourth)]
    harness.facts.now += 0.1
    assert harness.accepted(fifth) == []


def test_a_launcher_has_time_for_each_request_anew() -> None:
    harness = beside("a")
    first, second = of_turn(0, 2)
    harness.accepted(first, second)
    harness.facts.now = TURN_S - 0.1
    harness.schedule.withdraw(first.id)
    harness.decide()
    harness.facts.now = TURN_S
    harness.schedule.time_passed(TURN_S)
    assert harness.decide() == []
    assert harness.schedule.next_alarm == 2 * TURN_S - 0.1


def test_an_earlier_head_gives_a_launcher_no_more_time() -> None:
    harness = beside("a")
    earlier, first = of_turn(0, 2)
    harness.accepted(first)
    harness.facts.now = TURN_S / 2
    harness.accepted(earlier)
    assert harness.schedule.next_alarm == TURN_S


def test_an_idle_node_is_handed_out_whosever_turn_it_is() -> None:
    harness = beside("a")
    harness.facts.put_idle(MAIN, an_idle_node(1))
    first, second = of_turn(0, 2)
    assert harness.accepted(first, second) == [_number(first)]


def test_an_idle_node_is_left_in_anothers_turn_where_the_rest_would_fail() -> None:
    """Other pools of ours that might launch make no difference."""
    fails = a_pool_view("fails")
    small = of_turn(0)[0]
    large = small.changed(node_types=("small", "small"))
    for views in ([fails], [fails, a_pool_view()]):
        harness = Harness(*views, peers=[a_peer("p-a", "small", launcher="a")])
        harness.schedule.share_among(2)
        harness.facts.put_idle(fails.key, an_idle_node(1))
        harness.facts.doubtful.add((fails.key, "small"))
        assert harness.accepted(large) == []
        harness.facts.doubtful.clear()
        harness.capacity_changed(fails.key)
        assert harness.accepted() == [_number(large)]
        harness.facts.doubtful.add((fails.key, "small"))
        harness.facts.put_idle(fails.key, an_idle_node(2))
        harness.capacity_changed(fails.key)
        assert harness.accepted(small) == [_number(small)]


def test_who_does_not_reuse_nodes_waits_for_its_turn() -> None:
    harness = beside("a")
    harness.facts.put_idle(MAIN, an_idle_node(1))
    (request,) = of_turn(0)
    assert harness.accepted(request.changed(reuse=False)) == []


def test_turns_are_taken_only_among_the_best_pools() -> None:
    harness = beside("a", priority=200)
    assert len(harness.accepted(*of_turn(0, 2))) == 2


def test_programs_that_take_no_turns_are_raced() -> None:
    harness = Harness(peers=[a_peer("p-nodepool", "small")])
    harness.schedule.share_among(harness.facts.launchers)
    assert len(harness.accepted(*many(4))) == 4


def test_requests_are_shared_out_anew_when_a_launcher_comes_or_goes() -> None:
    harness = beside("a")
    theirs = of_turn(0, 3)
    assert harness.accepted(*reversed(theirs)) == []
    gone, harness.facts.others, harness.facts.launchers = harness.facts.others, [], 1
    harness.facts.generation += 1
    harness.schedule.share_among(1)
    harness.schedule.share_among(1)
    assert harness.accepted() == [_number(each) for each in theirs]
    harness.facts.others, harness.facts.launchers = gone, 2
    harness.facts.generation += 1
    harness.schedule.share_among(2)
    assert harness.accepted(*of_turn(0, 5)[3:]) == []


def test_what_is_kept_for_a_request_goes_when_it_is_anothers_turn() -> None:
    harness = Harness(full(), peers=[a_peer("p-a", "small", launcher="a", is_paused=True)])
    harness.schedule.share_among(2)
    (request,) = of_turn(0)
    assert harness.accepted(request) == []
    assert harness.schedule.kept.in_pool
    harness.facts.pause("p-a", is_paused=False)
    harness.schedule.wake_all()
    assert harness.accepted() == []
    assert not harness.schedule.kept.in_pool


def test_a_tenants_share_is_not_kept_for_a_request_in_anothers_turn() -> None:
    harness = beside("a", is_paused=True)
    harness.facts.tenants["t"] = Limits(instances=2)
    first, large = (each.changed(tenant_name="t") for each in of_turn(0, 2))
    large = large.changed(node_types=("small", "small"))
    small = of_turn(1, 9)[-1].changed(tenant_name="t")
    assert harness.accepted(first, large, small) == [_number(first)]
    harness.facts.pause("p-a", is_paused=False)
    harness.schedule.wake_all()
    assert harness.accepted() == [_number(small)]


def test_a_request_in_anothers_turn_takes_idle_nodes_but_keeps_none() -> None:
    harness = Harness(with_limit(1), peers=[a_peer("p-a", "small", launcher="a")])
    harness.schedule.share_among(2)
    harness.facts.put_idle(MAIN, an_idle_node(1))
    large, small = of_turn(0)[0].changed(node_types=("small", "small")), of_turn(1, 9)[-1]
    assert harness.accepted(large, small) == [_number(small)]


def test_a_request_whose_launches_were_begun_is_served_by_whoever_sees_it_first() -> None:
    harness = beside("a")
    (request,) = of_turn(0)
    harness.put(request, is_alone=True)
    assert harness.accepted() == [_number(request)]


# -- declining ------------------------------------------------------------------------------------------------------


def test_all_own_pools_decline_at_once_what_nobody_offers() -> None:
    harness = Harness(a_pool_view(), a_pool_view("other"), a_pool_view("third"))
    harness.put(a_request("nothing", declined_by=("cloud-third",)))
    (decision,) = harness.schedule.decide(harness.facts)
    assert isinstance(decision, Declined)
    assert decision.verdicts.keys() == {MAIN, ("cloud", "other")}
    assert not harness.schedule.waits(decision.request.id)


def test_nothing_is_declined_while_pools_are_about_to_register() -> None:
    harness = Harness()
    harness.facts.may_decline = False
    harness.put(a_request("nothing"))
    assert harness.decide() == []
    harness.facts.may_decline = True
    harness.schedule.wake_all()
    assert harness.decide() == [(1, "declined")]


def test_provider_that_takes_no_requests_declines_none() -> None:
    harness = Harness(a_pool_view(max_concurrency=0))
    harness.put(a_request(), a_request("nothing", number=2), a_request(number=3, declined_by=(POOL_ID,)))
    assert harness.decide() == []


def test_what_we_declined_is_left_to_the_others() -> None:
    harness = Harness(**peers(a_peer()))
    request = a_request(declined_by=(POOL_ID,))
    assert harness.accepted(request) == []
    assert harness.verdict(request) is None


def test_what_everybody_declined_is_failed_at_last() -> None:
    """The pool that was to decline last is gone, and has not."""
    harness = Harness()
    request = a_request("rare", declined_by=(POOL_ID, "gone"))
    harness.put(request)
    assert harness.schedule.decide(harness.facts) == [Declined(request, {MAIN: Decline((NobodyLeft(),))})]


def test_what_everybody_declined_waits_for_a_pool_that_is_away() -> None:
    harness = Harness()
    harness.facts.absent = [Absentee("cloud", "other", frozenset({"rare"}), until=50.0)]
    harness.facts.now = 10.0
    request = a_request("rare", declined_by=(POOL_ID, "gone"))
    assert harness.accepted(request) == []
    assert harness.verdict(request) == Defer((OffererAway("cloud", "other", 50.0),), until=50.0)
    assert harness.schedule.next_alarm == 50.0
    harness.schedule.time_passed(49.0)
    assert harness.schedule.is_idle
    harness.facts.now = 50.0
    harness.schedule.time_passed(50.0)
    assert harness.decide() == [(1, "declined")]
    assert harness.schedule.next_alarm is None


def test_request_that_one_pool_declines_keeps_its_place_in_another_meanwhile() -> None:
    broken = a_pool_view("broken", labels={"small": LabelView(broken="no flavor")})
    harness = Harness(with_limit(2), broken)
    first = a_request("small", "small", "small", number=1)
    harness.put(first, a_request("big", number=2))
    assert harness.decide() == [(1, "declined")]
    assert harness.schedule.waits(first.id)
    harness.facts.change(with_limit(3))
    harness.capacity_changed(MAIN)
    assert harness.decide() == []
    assert harness.verdict(first) == Defer((), Usage(instances=3), waits_for_provider=True)
    assert harness.schedule.kept.first_need(MAIN) == Usage(instances=1, cores=4)
    written = first.changed(declined_by=("cloud-broken",))
    assert harness.accepted(written) == [1]


# -- what is looked at ----------------------------------------------------------------------------------------------


def test_event_at_one_of_many_full_pools_looks_at_few_heads() -> None:
    harness = Harness(*(full(f"p{n}", provider=f"cloud{n}") for n in range(200)))
    for line, labels in enumerate((["small"], ["big"], ["small", "big"])):
        harness.put(*many(1000, *labels, start=1 + 1000 * line))
    assert harness.decide() == []
    for change in (harness.capacity_changed, harness.schedule.pool_changed):
        before = harness.judged
        change(("cloud7", "p7"))
        assert harness.decide() == []
        assert 1 <= harness.judged - before <= 3
    harness.facts.taken["cloud7", "p7"] = Usage()
    harness.facts.change(with_limit(1, "p7", provider="cloud7"))
    before = harness.judged
    harness.capacity_changed(("cloud7", "p7"))
    assert harness.decide() == [(1, "p7")]
    assert harness.judged - before <= 5


def test_request_behind_one_that_waits_is_not_judged() -> None:
    harness = Harness(full())
    harness.put(a_request(number=1))
    harness.decide()
    before = harness.judged
    harness.put(a_request(number=2), a_request(number=2))
    assert (harness.decide(), harness.judged) == ([], before)
    harness.schedule.withdraw(a_request(number=2).id)
    harness.schedule.withdraw(a_request(number=3).id)
    assert (harness.decide(), harness.judged) == ([], before)


def test_freed_pool_looks_only_at_lines_that_may_use_it() -> None:
    views = [full("a", labels={"a": LabelView()}), full("b", labels={"b": LabelView()}, provider="two")]
    harness = Harness(*views)
    harness.put(a_request("a", number=1), a_request("b", number=2))
    harness.decide()
    harness.facts.told.clear()
    harness.capacity_changed(("cloud", "a"))
    harness.decide()
    assert harness.judged_by(("cloud", "a")) == 1
    assert harness.judged_by(("two", "b")) == 0


def test_full_pool_still_declines_what_it_can_never_serve_any_more() -> None:
    harness = Harness(full())
    harness.put(a_request("big", number=1), a_request("small", number=2))
    assert harness.decide() == []
    labels = {"big": LabelView(Usage(instances=1, cores=4)), "small": LabelView(broken="no image")}
    harness.facts.change(full(labels=labels))
    harness.capacity_changed(MAIN)
    assert harness.decide() == [(2, "declined")]


def test_offers_of_a_line_that_is_not_served_don_t_pile_up() -> None:
    harness = Harness(a_pool_view(), a_pool_view("other"), **peers(a_peer("p", priority=1)))
    harness.put(a_request())
    for _ in range(100):
        harness.capacity_changed(("cloud", "other"))
        assert harness.decide() == []
    (line,) = harness.schedule._backlog.lines.values()
    assert len(line.offers) <= 6


def test_pool_that_comes_and_goes_changes_what_is_decided() -> None:
    harness = Harness(full(), **peers(a_peer("elsewhere", "rare")))
    waits = a_request()
    assert harness.accepted(waits) == []
    harness.facts.register(a_pool_view("new"))
    harness.schedule.wake_all()
    assert harness.decide() == [(1, "new")]
    harness.facts.unregister(("cloud", "new"))
    harness.schedule.wake_all()
    assert harness.accepted(a_request(number=2)) == []
    assert harness.verdict(a_request(number=2), ("cloud", "new")) is None


def test_only_requests_that_are_still_there_are_kept() -> None:
    harness = Harness(full())
    first, second = many(2)
    harness.put(first, second)
    harness.decide()
    harness.schedule.keep_only({second.id})
    assert (harness.schedule.waits(first.id), harness.schedule.waits(second.id)) == (False, True)
    harness.schedule.keep_only(set())
    assert harness.schedule.kept.first_need(MAIN) is None
    assert not harness.schedule.kept.is_full(MAIN)


def test_image_that_never_arrives_is_noticed_in_a_line_that_was_empty() -> None:
    view = a_pool_view(labels={"small": LabelView(is_ready=False, arrives_by=100.0)})
    harness = Harness(view)
    first, second = many(2)
    assert harness.accepted(first) == []
    harness.schedule.withdraw(first.id)
    assert harness.schedule.next_alarm is None
    assert harness.accepted(second) == []
    assert harness.schedule.next_alarm == 100.0
    harness.facts.now = 100.0
    harness.schedule.time_passed(inf)
    assert harness.decide() == [(2, "declined")]


# -- explaining -----------------------------------------------------------------------------------------------------


def test_what_holds_for_the_head_is_said_of_those_behind_it() -> None:
    harness = Harness(a_pool_view(down="no answer"))
    first, second = many(2)
    harness.put(first, second)
    harness.decide()
    assert harness.verdict(second) == harness.verdict(first) == Defer((ProviderDown("no answer"),))
    gone = a_request(number=9)
    assert harness.verdict(gone) is None
    assert harness.verdict(first, ("cloud", "unknown")) is None


def test_what_the_earliest_needs_is_made_room_for() -> None:
    harness = Harness(full())
    harness.put(a_request("big", number=2), a_request("small", "small", number=1))
    harness.decide()
    assert harness.schedule.kept.first_need(MAIN) == Usage(instances=2)
