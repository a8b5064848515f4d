"""Access to resources: requests of tenants at pools, labels, machines and idle nodes that are for some tenants only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nodelaunch.decisions.scheduling import Accepted, Decision, Declined, Schedule
from nodelaunch.decisions.triage import Absentee, FreeCapacity, LabelView, PoolView, judge
from nodelaunch.protocol.access import LAUNCHER, NOBODY, Allowed, Asker, asker_of
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.records import NodeRequest, turn_of
from nodelaunch.protocol.verdicts import (
    Accept,
    Decline,
    Defer,
    LabelNotAllowed,
    LabelNotOffered,
    MachinesNotAllowed,
    NoFreeMachine,
    OffererAway,
    PoolNotAllowed,
    TenantNotAllowed,
    TooFewMachines,
)
from support.builders import a_machine, a_peer, a_pool_view, a_request, an_idle_node
from support.facts import StaticFacts

MAIN = ("cloud", "main")
A, AB = frozenset({"a"}), frozenset({"a", "b"})
MIN_READY = {"requestor": MIN_READY_REQUESTOR, "reuse": False}


def a_closed_label(allowed: Allowed) -> LabelView:
    return LabelView(Usage(instances=1), allowed_tenants=allowed)


def some_machines(*machines: Any, **fields: Any) -> PoolView:
    return a_pool_view(can_launch=False, machines=machines, **fields)


def of(tenant: str | None, *labels: str, **fields: Any) -> NodeRequest:
    return a_request(*labels, tenant_name=tenant).changed(**fields)


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asker", "allowed", "may"),
    [
        (Asker("a"), None, True),
        (Asker(None), None, True),
        (Asker("a"), AB, True),
        (Asker("A"), AB, False),
        (Asker(None), AB, False),
        (Asker("a"), NOBODY, False),
        (LAUNCHER, A, True),
    ],
)
def test_a_tenant_may_use_what_is_for_everybody_or_for_it(asker: Asker, allowed: Allowed, may: bool) -> None:
    assert asker.may_use(allowed) is may


@pytest.mark.parametrize(
    ("tenant", "requestor", "asker"),
    [
        ("a", "zuul", Asker("a")),
        (None, "zuul", Asker(None)),
        (None, MIN_READY_REQUESTOR, LAUNCHER),
        ("a", MIN_READY_REQUESTOR, Asker("a")),
    ],
)
def test_a_launcher_asks_for_nobody(tenant: str | None, requestor: str, asker: Asker) -> None:
    request = of(tenant, requestor=requestor)
    assert asker_of(request) == asker
    schedule = Schedule()
    schedule.put(request)
    assert schedule._backlog.line_of[request.id].shape.asker == asker


# -- what a pool says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", ["b", None])
def test_pool_for_others_declines(tenant: str | None) -> None:
    assert judge(of(tenant), a_pool_view(allowed_tenants=A), FreeCapacity()) == Decline((PoolNotAllowed(tenant),))
    assert judge(of(tenant, "nothing"), a_pool_view(allowed_tenants=A), FreeCapacity()) == Decline(
        (LabelNotOffered("nothing"),)
    )


def test_pool_for_others_declines_while_its_provider_is_down() -> None:
    assert isinstance(judge(of("b"), a_pool_view(allowed_tenants=A, down="no answer"), FreeCapacity()), Decline)


def test_pool_for_the_tenant_and_for_the_launcher_serves() -> None:
    for request in (of("a"), of(None, **MIN_READY)):
        assert isinstance(judge(request, a_pool_view(allowed_tenants=A), FreeCapacity()), Accept)


def test_label_for_others_is_declined_and_pool_and_label_both_have_to_allow() -> None:
    labels = {"small": a_closed_label(A), "big": a_closed_label(None), "other": a_closed_label(A)}
    view = a_pool_view(labels=labels)
    assert judge(of("b", "small"), view, FreeCapacity()) == Decline((LabelNotAllowed("b", "small"),))
    both = (LabelNotAllowed("b", "other"), LabelNotAllowed("b", "small"))
    assert judge(of("b", "small", "big", "other"), view, FreeCapacity()) == Decline(both)
    assert isinstance(judge(of("b", "big"), view, FreeCapacity()), Accept)
    assert isinstance(judge(of("a", "small", "big"), view, FreeCapacity()), Accept)
    assert judge(of("a"), replace(view, allowed_tenants=frozenset({"b"})), FreeCapacity()) == Decline(
        (PoolNotAllowed("a"),)
    )
    assert judge(of("b"), replace(view, allowed_tenants=AB), FreeCapacity()) == Decline(
        (LabelNotAllowed("b", "small"),)
    )


def test_another_pool_that_is_away_is_waited_for() -> None:
    free = FreeCapacity(absent=[Absentee("elsewhere", "main", frozenset({"small"}), 60.0)], now=1.0)
    verdict = judge(of("b"), a_pool_view(allowed_tenants=A), free)
    assert verdict == Defer((OffererAway("elsewhere", "main", 60.0),), until=60.0)


def test_only_machines_for_the_tenant_count() -> None:
    view = some_machines(a_machine(allowed_tenants=A), a_machine(allowed_tenants=AB), a_machine("big"))
    waits = Defer((NoFreeMachine("small"),), Usage(instances=1))
    assert judge(of("b"), view, FreeCapacity()) == waits
    assert judge(of("a", "small", "small"), view, FreeCapacity()) == replace(waits, need=Usage(instances=2))
    for tenant, labels in (("b", ("small", "small")), ("c", ("small",)), (None, ("big", "small"))):
        assert judge(of(tenant, *labels), view, FreeCapacity()) == Decline((MachinesNotAllowed(tenant, "small"),))
    assert judge(of("a", "small", "small", "small"), view, FreeCapacity()) == Decline((TooFewMachines("small"),))
    assert judge(of(None, "small", "small", **MIN_READY), view, FreeCapacity()) != Decline(
        (MachinesNotAllowed(None, "small"),)
    )


def test_machine_with_several_labels_is_counted_once() -> None:
    view = some_machines(
        a_machine("small", "big", allowed_tenants=A), a_machine("big", allowed_tenants=frozenset({"b"}))
    )
    assert judge(of("a", "small", "big"), view, FreeCapacity()) == Decline((MachinesNotAllowed("a", "big"),))


@pytest.mark.parametrize(
    ("reason", "text", "remedy"),
    [
        (
            PoolNotAllowed("b"),
            "tenant b may not use the pool (allowed-tenants)",
            "add b to allowed-tenants of the pool",
        ),
        (
            LabelNotAllowed("b", "small"),
            "tenant b may not use label small in the pool (allowed-tenants)",
            "add b to allowed-tenants of label small in the pool",
        ),
        (
            MachinesNotAllowed("b", "bare"),
            "tenant b may not use as many machines of label bare as it requests at once (allowed-tenants)",
            "add b to allowed-tenants of machines with label bare",
        ),
        (
            PoolNotAllowed(None),
            "a request without a tenant may not use the pool (allowed-tenants)",
            "the request needs a tenant that is in allowed-tenants of the pool",
        ),
    ],
)
def test_reason_names_the_tenant_and_the_list(reason: TenantNotAllowed, text: str, remedy: str) -> None:
    assert (str(reason), reason.remedy) == (text, remedy)


# -- what is decided --------------------------------------------------------------------------------------------------


class Harness:
    """A schedule, and facts in which idle nodes may be for some tenants only."""

    def __init__(self, *views: PoolView, **facts: Any) -> None:
        self.facts = StaticFacts(*views, **facts)
        self.schedule = Schedule()
        self.schedule.share_among(self.facts.launchers)

    def put_idle(self, number: int, allowed: Allowed = None) -> NodeId:
        node = an_idle_node(number)
        self.facts.allowed_on[node.id] = allowed
        self.facts.put_idle(MAIN, node)
        self.schedule.pool_changed(MAIN)
        return node.id

    def decide(self, *requests: NodeRequest) -> list[Decision]:
        for request in requests:
            self.schedule.put(request)
        return self.schedule.decide(self.facts)

    def reused(self, *requests: NodeRequest) -> list[tuple[str | None, NodeId | None]]:
        """Tenant and node of each request that is accepted."""
        decided = self.decide(*requests)
        return [(d.request.tenant_name, d.verdict.reuse[0]) for d in decided if isinstance(d, Accepted)]


def numbered(number: int, tenant: str | None, *labels: str, **fields: Any) -> NodeRequest:
    return a_request(*labels, number=number, tenant_name=tenant, **fields)


def test_request_waits_for_its_machine_and_the_others_are_given_to_later_ones() -> None:
    harness = Harness(some_machines(a_machine(allowed_tenants=A), a_machine()))
    open_node = harness.put_idle(1)
    waits, first, second = numbered(1, "b"), numbered(2, "a"), numbered(3, "b")
    assert harness.reused(waits, first, second) == [("b", open_node)]
    assert harness.schedule.verdict(second.id, MAIN, harness.facts) == Defer(
        (NoFreeMachine("small"),), Usage(instances=1)
    )
    closed = harness.put_idle(2, A)
    assert harness.reused() == [("a", closed)]
    again = harness.put_idle(3)
    assert harness.reused() == [("b", again)]


def test_machines_for_others_are_no_reason_to_take_a_request_out_of_its_turn() -> None:
    """In the turn of another launcher a pool serves what it has an idle node for, and nothing else."""
    peer = a_peer("other", "small", launcher="a", provider="cloud")
    harness = Harness(some_machines(a_machine(allowed_tenants=A), a_machine()), peers=[peer])
    closed = harness.put_idle(1, A)
    theirs = [number for number in range(1, 20) if turn_of(a_request(number=number).id, 2) == 0]
    assert harness.reused(numbered(theirs[0], "b")) == []
    assert harness.facts.told == []
    assert harness.reused(numbered(theirs[1], "a")) == [("a", closed)]


def test_pool_with_more_idle_nodes_for_the_tenant_is_asked_first() -> None:
    other = ("cloud", "other")
    harness = Harness(a_pool_view(), a_pool_view("other", limits=Limits(instances=2)))
    harness.put_idle(1, A)
    harness.facts.put_idle(other, an_idle_node(9))
    (decision,) = harness.decide(numbered(1, "b"))
    assert isinstance(decision, Accepted)
    assert (decision.key, decision.verdict.reuse) == (other, ("0000000009",))


def test_decline_of_one_pool_leaves_the_request_to_others() -> None:
    harness = Harness(a_pool_view(allowed_tenants=A, priority=1), a_pool_view("open"))
    (decision,) = harness.decide(numbered(1, "b"))
    assert isinstance(decision, Accepted)
    assert decision.key == ("cloud", "open")


def test_requests_of_one_tenant_do_not_decide_for_another() -> None:
    harness = Harness(a_pool_view(allowed_tenants=A))
    requests = [numbered(1, "b"), numbered(2, "a"), numbered(3, None), numbered(4, None, reuse=False)]
    requests.append(numbered(5, None, reuse=False).changed(requestor=MIN_READY_REQUESTOR))
    decisions = harness.decide(*requests)
    assert {d.request.id for d in decisions if isinstance(d, Accepted)} == {requests[1].id, requests[4].id}
    assert all(
        d.verdicts[MAIN] == Decline((PoolNotAllowed(d.request.tenant_name),))
        for d in decisions
        if isinstance(d, Declined)
    )


def test_change_of_the_list_is_seen_by_requests_that_wait() -> None:
    view = some_machines(a_machine(), allowed_tenants=AB)
    harness = Harness(view)
    waits = numbered(1, "b")
    assert harness.decide(waits) == []
    harness.facts.change(replace(view, allowed_tenants=A))
    harness.schedule.pool_changed(MAIN)
    assert harness.decide() == [Declined(waits, {MAIN: Decline((PoolNotAllowed("b"),))})]
