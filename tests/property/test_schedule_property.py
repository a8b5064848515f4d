"""Decisions after a change equal decisions made from scratch.

The reference below goes through all waiting requests, in order and pool by pool, with no knowledge of earlier
decisions. It shares with the schedule the verdict of one pool (`judge`) and the equality of requests (`shape_of`),
nothing else. `NODELAUNCH_EXAMPLES` sets how many cases are tried.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nodelaunch.decisions.backlog import shape_of
from nodelaunch.decisions.scheduling import Accepted, Schedule
from nodelaunch.decisions.triage import (
    Absentee,
    FreeCapacity,
    IdleNode,
    LabelView,
    MachineView,
    PoolKey,
    PoolView,
    absentees,
    after_decline,
    judge,
)
from nodelaunch.protocol.access import Allowed, asker_of
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId, RequestId
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import Accept, ConcurrencyReached, Decline, Defer, TenantFull, Verdict
from support.builders import a_pause, a_peer, a_request, an_idle_node
from support.facts import OWN_LAUNCHER, StaticFacts

EXAMPLES = int(os.environ.get("NODELAUNCH_EXAMPLES", "100"))
NEEDS = {"small": Usage(instances=1, cores=1), "big": Usage(instances=1, cores=4)}


# -- the reference --------------------------------------------------------------------------------------------------


@dataclass
class Holds:
    """Reservations of heads, in order."""

    verdicts: list[tuple[NodeRequest, PoolKey, Defer]] = field(default_factory=list)

    def of(self, request: NodeRequest, wanted: Iterable[tuple[NodeRequest, PoolKey, Defer]]) -> list[Defer]:
        """Return the reservations of requests earlier than *request*, each request once."""
        return list({other.id: verdict for other, _, verdict in wanted if other.order < request.order}.values())

    def free_capacity(self, request: NodeRequest, view: PoolView, facts: StaticFacts) -> FreeCapacity:
        """Return the capacity that is free for *request* after reservations for earlier requests."""
        here = [each for each in self.verdicts if each[1] == view.key]
        there = [each for each in self.verdicts if each[1][0] == view.key[0]]
        in_pool = self.of(request, [e for e in here if e[2].waits_for_capacity or e[2].kept])
        at_provider = self.of(request, [each for each in there if each[2].waits_for_provider])
        launches = self.of(request, [each for each in there if _says(each[2], ConcurrencyReached)])
        shares = self.of(request, [e for e in self.verdicts if _says(e[2], TenantFull) and _same_tenant(e[0], request)])
        tenant = facts.tenant(request.tenant_name) if request.tenant_name is not None else None
        provider_left = facts.provider_left(view.key)
        return FreeCapacity(
            pool=_less(facts.pool_left(view.key), in_pool),
            provider=_less(provider_left, at_provider) if view.shares_provider_quota else provider_left,
            tenant=_less(tenant.free, shares) if tenant else Limits(),
            tenant_ceiling=tenant.ceiling if tenant else Limits(),
            launching=facts.launching(view.key[0]) if view.max_concurrency >= 0 else 0,
            is_overtaking=bool(launches),
            idle=facts.idle(
                view.key, frozenset(node for verdict in in_pool for node in verdict.kept), asker_of(request)
            ),
            absent=facts.absent,
            now=facts.now,
        )


def _says(verdict: Defer, kind: type) -> bool:
    return isinstance(verdict.reasons[0], kind)


def _same_tenant(one: NodeRequest, other: NodeRequest) -> bool:
    return one.tenant_name == other.tenant_name


def _less(limits: Limits, verdicts: Iterable[Defer]) -> Limits:
    return reduce(lambda left, verdict: left.minus(verdict.need), verdicts, limits)


def _candidates(request: NodeRequest, peers: Iterable[RegisteredPool]) -> list[RegisteredPool]:
    offering = [p for p in peers if set(request.node_types) <= p.labels and p.pool_id not in request.declined_by]
    wanted = [peer for peer in offering if peer.provider == request.provider]
    return offering if all(peer.is_stopped for peer in wanted) else wanted


def _turn_elsewhere(request: NodeRequest, candidates: Iterable[RegisteredPool], facts: StaticFacts) -> int | None:
    """The priority of the pools whose launchers take turns, if it is another's turn."""
    free = [peer for peer in candidates if not peer.is_paused]
    best = [peer for peer in free if peer.priority == min(peer.priority for peer in free)]
    launchers = sorted({peer.launcher for peer in best if peer.launcher})
    turn = shape_of(request, launchers=facts.launchers).turn
    is_ours = OWN_LAUNCHER in launchers
    if facts.launchers < 2 or not is_ours or launchers[turn % len(launchers)] == OWN_LAUNCHER:
        return None
    return best[0].priority


def _can_reuse(request: NodeRequest, view: PoolView, facts: StaticFacts) -> bool:
    reuses = request.reuse or not view.can_launch
    return reuses and any(facts.idle_count(view.key, label, asker_of(request)) for label in request.node_types)


def _serves_out_of_turn(request: NodeRequest, view: PoolView, facts: StaticFacts) -> bool:
    """Return whether idle nodes exist for the request, and its remaining launches do not fail."""
    count = sum(facts.idle_count(view.key, label, asker_of(request)) for label in set(request.node_types))
    fails = count < len(request.node_types) and facts.is_doubtful(view.key, request.node_types)
    return _can_reuse(request, view, facts) and not fails


def _ask_all(request: NodeRequest, facts: StaticFacts, holds: Holds) -> dict[PoolKey, Verdict]:
    """Return the verdict of each pool that may be asked, until one accepts."""
    candidates = _candidates(request, facts.peers)
    others = [peer.priority for peer in candidates if peer.pool_id not in facts.own and not peer.is_paused]
    if candidates:
        views = [facts.own[peer.pool_id] for peer in candidates if peer.pool_id in facts.own]
    else:
        views = [view for pool_id, view in facts.own.items() if pool_id not in request.declined_by]
    turn = _turn_elsewhere(request, candidates, facts)
    verdicts: dict[PoolKey, Verdict] = {}
    for view in sorted(views, key=lambda view: (view.priority, not _can_reuse(request, view, facts))):
        if any(priority < view.priority for priority in others):
            break
        if turn is not None and view.priority >= turn and not _serves_out_of_turn(request, view, facts):
            break
        verdict = judge(request, view, holds.free_capacity(request, view, facts))
        verdicts[view.key] = verdict
        if isinstance(verdict, Accept):
            break
        if candidates and isinstance(verdict, Defer) and verdict.holds_others_back:
            others.append(view.priority)
    return verdicts


def _kept(request: NodeRequest, verdicts: dict[PoolKey, Verdict], facts: StaticFacts) -> Holds:
    """Return the reservations of the pools for *request*: none if it is another's turn, although idle nodes would
    be given.
    """
    turn = _turn_elsewhere(request, _candidates(request, facts.peers), facts)
    return Holds([
        (request, key, verdict)
        for key, verdict in verdicts.items()
        if isinstance(verdict, Defer) and (turn is None or facts.views[key].priority < turn)
    ])  # fmt: skip


def decide_anew(waiting: Iterable[NodeRequest], facts: StaticFacts) -> Iterator[tuple[NodeRequest, Holds, Verdict]]:
    """Yield the verdict on the first of each kind of equal requests, in order, with the reservations before it. A
    request is declined if some pool declines it, none accepts it and its tenant is not full. Capacity that it waits
    for is reserved.
    """
    holds, shapes = Holds(), set()
    for request in sorted(waiting, key=lambda request: request.order):
        shape = shape_of(request, launchers=facts.launchers)
        if shape in shapes:
            continue
        shapes.add(shape)
        verdicts = _ask_all(request, facts, holds)
        accepts = [verdict for verdict in verdicts.values() if isinstance(verdict, Accept)]
        is_full = any(isinstance(verdict, Defer) and _says(verdict, TenantFull) for verdict in verdicts.values())
        declines = [verdict for verdict in verdicts.values() if isinstance(verdict, Decline) and not is_full]
        is_left = set(request.declined_by) >= {peer.pool_id for peer in facts.peers} and bool(facts.own)
        if is_left and not absentees(request, facts.absent, facts.now):
            declines.append(Decline(()))
        yield request, holds, (*accepts, *(declines if facts.may_decline else ()), Defer(()))[0]
        holds = Holds([*holds.verdicts, *_kept(request, verdicts, facts).verdicts])


# -- the world ------------------------------------------------------------------------------------------------------


class CheckedFacts(StaticFacts):
    """Check at each decision to accept a request that it overtakes no other request and exceeds no capacity."""

    waiting: dict[RequestId, NodeRequest]

    def reserve(self, request: NodeRequest, key: PoolKey, verdict: Accept) -> None:
        view = self.views[key]
        earlier = [other for other in self.waiting.values() if other.order < request.order]
        holds = Holds()
        for other, before, _ in decide_anew(earlier, self):
            holds.verdicts += _kept(other, _ask_all(other, self, before), self).verdicts
        again = judge(request, view, holds.free_capacity(request, view, self))
        assert isinstance(again, Accept), f"{request} overtakes in {key}: {again}"
        turn = _turn_elsewhere(request, _candidates(request, self.peers), self)
        is_left = turn is not None and view.priority >= turn and not _serves_out_of_turn(request, view, self)
        assert not is_left, f"{request} is another launcher's"
        asker = asker_of(request)
        assert all(
            map(
                asker.may_use,
                [view.allowed_tenants, *(view.labels[label].allowed_tenants for label in request.node_types)],
            )
        )
        assert all(asker.may_use(self.allowed_on.get(node_id)) for node_id in verdict.reuse if node_id is not None)
        super().reserve(request, key, verdict)
        left = [self.pool_left(key), self.provider_left(key)]
        if (tenant := self.tenant(request.tenant_name or "")) is not None:
            left.append(tenant.free)
        assert all(amount >= 0 for limits in left for amount in limits.amounts.values()), left
        del self.waiting[request.id]


def a_view(provider: str, pool: str, *labels: str, limit: Limits, **fields: object) -> PoolView:
    return PoolView(
        (provider, pool), f"{provider}-{pool}", 100, {label: LabelView(NEEDS[label]) for label in labels},
        limits=limit, ceiling=Limits(instances=3, cores=8), **fields,
    )  # fmt: skip


RACK = PoolView(
    ("rack", "r"), "rack-r", 100, {"small": LabelView(), "big": LabelView()}, can_launch=False,
    machines=(
        MachineView(frozenset({"small", "big"})),
        MachineView(frozenset({"small"}), allowed_tenants=frozenset({"t"})),
        MachineView(frozenset({"small"})),
    ),
)  # fmt: skip
"""A pool of machines that exist already."""
LIMITS = st.sampled_from([Limits(instances=2), Limits(instances=1), Limits(instances=2, cores=4), Limits()])
ALLOWED = st.sampled_from([None, None, None, frozenset({"t"}), frozenset({"other"})])
DOWN = st.sampled_from([None, None, None, "no answer"])
PRIORITIES = st.sampled_from([100, 100, 50])
OTHER_PRIORITIES = st.sampled_from([75, 100, 100, 50])
OFFERS = st.sampled_from([("small",), ("small", "big"), ("small", "big"), ("big",)])
WANTED = st.sampled_from([("small",), ("small",), ("small", "small"), ("small", "small"), ("big",), ("none",)])


class IncrementalDecisions(RuleBasedStateMachine):
    """Promises, after any sequence of changes:

    * nothing waits that would be accepted, and nothing that would be declined, if everything that waits were decided
      on anew, in order and without knowledge of before;
    * a request is accepted only where it fits beside what each earlier request waits for. Of equal requests only the
      first counts: what those behind it will need is not kept for them;
    * no pool, provider or tenant gives more than its limits, and no idle node is given twice;
    * no tenant is given what is for others.

    Which of several pools of one priority accepts is not promised: it depends on what was free when each was last
    looked at. That is why outcomes are compared when nothing moves any more, and not decision by decision.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count(1)
        self.schedule = Schedule()

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        def pool(provider: str, name: str) -> PoolView:
            known = a_view(provider, name, *data.draw(OFFERS), limit=data.draw(LIMITS))
            at_once = data.draw(st.sampled_from([-1, -1, 2])) if provider == "one" else -1
            return replace(known, priority=data.draw(PRIORITIES), max_concurrency=at_once)

        self.spare = a_view("two", "spare", "small", "big", limit=Limits(instances=2))
        launcher = data.draw(st.sampled_from(["", "a", "z"]))
        other = a_peer(
            "elsewhere", "small", priority=data.draw(OTHER_PRIORITIES), is_paused=data.draw(st.booleans()),
            provider="three", launcher=launcher,
        )  # fmt: skip
        self.facts = CheckedFacts(
            pool("one", "a"), pool("one", "b"), pool("two", "c"),
            providers={"one": Limits(instances=3, cores=8), "two": Limits(instances=2, cores=8)},
            tenants={"t": Limits(instances=2)}, peers=[other],
        )  # fmt: skip
        self.away: list[IdleNode] = []
        if data.draw(st.sampled_from([False, False, True])):
            self.facts.register(replace(RACK, priority=data.draw(PRIORITIES)))
            for machine in RACK.machines:
                node = IdleNode(NodeId(f"m{next(self.numbers)}"), machine.labels)
                self.facts.allowed_on[node.id] = machine.allowed_tenants
                self.facts.put_idle(RACK.key, node)
        self.facts.waiting = {}
        self.schedule.share_among(self.facts.launchers)

    # -- what may happen --------------------------------------------------------------------------------------------

    @rule(
        labels=WANTED,
        priority=st.sampled_from(["100", "200", "200"]),
        relative=st.integers(0, 3),
        tenant=st.sampled_from([None, None, None, "t"]),
        provider=st.sampled_from([None] * 5 + ["two"]),
        kind=st.sampled_from([""] * 6 + ["no reuse", "min-ready"]),
    )
    def submit(
        self, labels: tuple[str, ...], priority: str, relative: int, tenant: str, provider: str | None, kind: str
    ) -> None:
        request = a_request(
            *labels, number=next(self.numbers), priority=priority, relative_priority=relative, tenant_name=tenant,
            provider=provider, reuse=not kind,
        )  # fmt: skip
        self._put(request.changed(requestor=MIN_READY_REQUESTOR) if kind == "min-ready" else request)

    def _put(self, request: NodeRequest) -> None:
        self.facts.waiting[request.id] = request
        self.schedule.put(request)
        self._decide()

    @precondition(lambda self: self.facts.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.facts.waiting)))
        del self.facts.waiting[request_id]
        self.schedule.withdraw(request_id)
        self._decide()

    @precondition(lambda self: self.facts.waiting)
    @rule(data=st.data(), relative=st.integers(0, 4))
    def revise(self, data: st.DataObject, relative: int) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.facts.waiting)))
        self._put(self.facts.waiting[request_id].changed(relative_priority=relative))

    @precondition(lambda self: self.facts.grants)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        grant = self.facts.free(data.draw(st.sampled_from(sorted(self.facts.grants))))
        for node in grant.reused if grant.key == RACK.key else ():
            self.facts.put_idle(grant.key, node)
        self._capacity_changed(grant.key, grant.tenant)

    @precondition(lambda self: self.facts.grants)
    @rule(data=st.data())
    def launched(self, data: st.DataObject) -> None:
        grant = self.facts.grants[data.draw(st.sampled_from(sorted(self.facts.grants)))]
        grant.launching = 0
        self._capacity_changed(grant.key, None)

    @precondition(lambda self: self.facts.idle_nodes.get(RACK.key))
    @rule(data=st.data())
    def machine_fails(self, data: st.DataObject) -> None:
        """Put a machine into quarantine."""
        nodes = self.facts.idle_nodes[RACK.key]
        self.away.append(nodes.pop(data.draw(st.sampled_from(sorted(nodes)))))
        self._capacity_changed(RACK.key, None)

    @precondition(lambda self: self.away)
    @rule()
    def machine_returns(self) -> None:
        self.facts.put_idle(RACK.key, self.away.pop())
        self._capacity_changed(RACK.key, None)

    @precondition(lambda self: any(grant.key != RACK.key for grant in self.facts.grants.values()))
    @rule(data=st.data(), label=st.sampled_from(["small", "big"]), allowed=ALLOWED)
    def idle(self, data: st.DataObject, label: str, allowed: Allowed) -> None:
        """The nodes of a request go, and one of them stays idle."""
        grants = [each for each, grant in self.facts.grants.items() if grant.key != RACK.key]
        grant = self.facts.free(data.draw(st.sampled_from(sorted(grants))))
        node = replace(an_idle_node(next(self.numbers), label), usage=NEEDS["small"])
        self.facts.allowed_on[node.id] = allowed
        self.facts.put_idle(grant.key, node)
        self._capacity_changed(grant.key, grant.tenant)

    @precondition(lambda self: any(self.facts.idle_nodes.values()))
    @rule(data=st.data())
    def idle_node_goes(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, nodes in self.facts.idle_nodes.items() if nodes)))
        _, node = self.facts.idle_nodes[key].popitem()
        if key == RACK.key:
            self.away.append(node)
        self._capacity_changed(key, None)

    @rule(pool_id=st.sampled_from(["elsewhere", "elsewhere", "one-a"]), is_paused=st.booleans())
    def pause(self, pool_id: str, is_paused: bool) -> None:
        self.facts.pause(pool_id, is_paused=is_paused)
        self.schedule.wake_all()
        self._decide()

    @rule(data=st.data(), is_other=st.booleans())
    def operator_pauses_or_resumes(self, data: st.DataObject, is_other: bool) -> None:
        """Pause or resume a pool of ours, or the other one."""
        if is_other:
            self.facts.others = [
                replace(peer, is_stopped=not peer.is_stopped, is_paused=not peer.is_stopped)
                for peer in self.facts.others
            ]
        else:
            key = data.draw(st.sampled_from(sorted(self.facts.views)))
            view = self.facts.views[key]
            self.facts.change(replace(view, pauses=() if view.pauses else (a_pause(key[0]),)))
            self._tell(key)
        self.facts.generation += 1
        self.schedule.wake_all()
        self._decide()

    @rule(launcher=st.sampled_from(["", "a", "z"]), priority=OTHER_PRIORITIES)
    def other_launcher_changes(self, launcher: str, priority: int) -> None:
        """The other pool is of a launcher that takes no turns, of one that comes before us, or after us."""
        self.facts.others = [replace(peer, launcher=launcher, priority=priority) for peer in self.facts.others]
        self.facts.launchers = 2 if launcher else 1
        self.facts.generation += 1
        self.schedule.share_among(self.facts.launchers)
        self.schedule.wake_all()
        self._decide()

    @rule()
    def register_or_leave(self) -> None:
        if self.spare.key in self.facts.views:
            self.facts.unregister(self.spare.key)
        else:
            self.facts.register(self.spare)
        self.schedule.time_passed(float("inf"))
        self.schedule.wake_all()
        self._decide()

    @rule(provider=st.sampled_from(["one", "two"]))
    def refuse(self, provider: str) -> None:
        """Let the cloud report that its quota is used up, or succeed again."""
        self.facts.refused ^= {provider}
        for key in [key for key in self.facts.views if key[0] == provider]:
            self._tell(key)
        self._decide()

    @rule(data=st.data(), down=DOWN, launches_down=DOWN, of_label=st.sampled_from(["", "", "broken", "soon"]))
    def view_changes(self, data: st.DataObject, down: str | None, launches_down: str | None, of_label: str) -> None:
        """The provider answers or not, its breaker opens or closes, a label fails, waits for its image, or has it."""
        key = data.draw(st.sampled_from(sorted(self.facts.views)))
        view = self.facts.views[key]
        is_soon, why = of_label == "soon", "no image" if of_label == "broken" else None
        small = {"broken": why, "is_ready": not is_soon, "arrives_by": 1000.0 if is_soon else None}
        labels = {name: replace(known, **small) if name == "small" else known for name, known in view.labels.items()}
        self.facts.change(replace(view, down=down, launches_down=launches_down, labels=labels))
        self._tell(key)
        self._decide()

    @rule(data=st.data(), label=st.sampled_from(["small", "small", "big"]))
    def doubt(self, data: st.DataObject, label: str) -> None:
        """Launches of the label fail in the pool, or may be tried again."""
        keys = sorted(self.facts.views)
        with_idle = [key for key in keys if self.facts.has_idle(key) and (key, label) not in self.facts.doubtful]
        key = data.draw(st.sampled_from(with_idle or keys))
        self.facts.doubtful ^= {(key, label)}
        self._tell(key)
        self._decide()

    @rule(instances=st.integers(1, 3))
    def limit_of_tenant_changes(self, instances: int) -> None:
        self.facts.tenants["t"] = Limits(instances=instances)
        self._generation_changed()

    @precondition(lambda self: any(self.facts.idle_nodes.values()))
    @rule(data=st.data(), allowed=ALLOWED)
    def restrict_node(self, data: st.DataObject, allowed: Allowed) -> None:
        """Change the tenants that may use a machine, with the configuration."""
        nodes = [node_id for nodes in self.facts.idle_nodes.values() for node_id in nodes]
        self.facts.allowed_on[data.draw(st.sampled_from(sorted(nodes)))] = allowed
        self._generation_changed()

    def _generation_changed(self) -> None:
        self.facts.generation += 1
        self._wake_all()

    def _wake_all(self) -> None:
        self.schedule.time_passed(float("inf"))
        self.schedule.wake_all()
        self._decide()

    @rule(labels=st.sampled_from([(), ("small",), ("none",)]))
    def pools_are_away(self, labels: tuple[str, ...]) -> None:
        """Let requests wait for one absent pool that offers these labels, or, without labels, for none."""
        self.facts.absent = [Absentee("three", "away", frozenset(labels), 1000.0)] if labels else []
        self._wake_all()

    @rule(may_decline=st.sampled_from([True, True, False]))
    def pools_register(self, may_decline: bool) -> None:
        """Announce pools of ours that are about to register, or let them register."""
        self.facts.may_decline = may_decline
        self._wake_all()

    @rule(data=st.data(), of_pool=ALLOWED, of_label=ALLOWED)
    def restrict(self, data: st.DataObject, of_pool: Allowed, of_label: Allowed) -> None:
        """Change the tenants that may use a pool, and one of its labels."""
        key = data.draw(st.sampled_from(sorted(self.facts.views)))
        view = self.facts.views[key]
        labels = {
            name: replace(known, allowed_tenants=of_label if name == "small" else None)
            for name, known in view.labels.items()
        }
        self.facts.change(replace(view, allowed_tenants=of_pool, labels=labels))
        self._tell(key)
        self._decide()

    def _capacity_changed(self, key: PoolKey, tenant: str | None) -> None:
        self._tell(key)
        if tenant in self.facts.tenants:
            self.schedule.tenant_changed(tenant or "")
        self._decide()

    def _tell(self, key: PoolKey) -> None:
        if key in self.facts.views:
            self.schedule.pool_changed(key)
        self.schedule.provider_changed(key[0])

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Decide, and write what is declined, until nothing moves any more."""
        while not self.schedule.is_idle:
            for decision in self.schedule.decide(self.facts):
                if isinstance(decision, Accepted):
                    assert decision.key == self.facts.grants[decision.request.id].key
                    continue
                pool_ids = [self.facts.views[key].pool_id for key in decision.verdicts]
                registered = [peer.pool_id for peer in self.facts.peers]
                request = after_decline(decision.request, pool_ids, registered, self.facts.now, self.facts.absent)
                if request.state is RequestState.FAILED:
                    self.schedule.withdraw(request.id)
                    del self.facts.waiting[request.id]
                else:
                    self.facts.waiting[request.id] = request
                    self.schedule.put(request)

    @invariant()
    def nothing_is_left_undecided(self) -> None:
        for request, _, verdict in decide_anew(self.facts.waiting.values(), self.facts):
            assert isinstance(verdict, Defer), f"{request} waits, but {verdict}"
        assert {each for each in self.facts.waiting if self.schedule.waits(each)} == self.facts.waiting.keys()


TestIncrementalDecisions = IncrementalDecisions.TestCase
TestIncrementalDecisions.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
