"""The request machine keeps its promises with all answers in any order; planted bugs are found.

The model plays the world: it runs the tasks that the machine starts, performs store effects, and lets the request
vanish, the lock be lost or the launcher drain at any moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nodelaunch.decisions import machine as m
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import Accept, Decline, HandlerFailed, LabelNotOffered
from support.builders import a_request

Stepper = Callable[..., m.Step]
RETRIES = 2
MAX_STEPS = 400


@dataclass
class World:
    """Environment of the machine, and a record of the machine's actions."""

    step: Stepper
    state: m.State
    choose: Callable[[int], int]
    can_launch: bool
    tasks: dict[int, str] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)
    held: set[NodeId] = field(default_factory=set)
    claims: dict[int, NodeId] = field(default_factory=dict)
    is_locked: bool = False
    lock_is_lost: bool = False
    told_lost: bool = False
    is_gone: bool = False
    saved: list[m.Save] = field(default_factory=list)
    inbox: list[m.Event] = field(default_factory=list)
    nodes_made: int = 10
    quota_events: int = 0

    def perform(self, effects: tuple[m.Effect, ...]) -> None:
        store = [
            e for e in effects if isinstance(e, m.LockRequest | m.Save | m.HandOver | m.ReleaseNodes | m.UnlockRequest)
        ]
        for effect in effects:
            match effect:
                case m.ClaimNode(slot, node_id):
                    self._begin(slot, "claim")
                    self.claims[slot] = node_id
                case m.Launch(slot, attempt):
                    self._begin(slot, "launch")
                    assert attempt <= RETRIES, "more attempts than allowed"
                    assert attempt >= self.attempts.get(slot, 1), "attempts don't go down"
                    self.attempts[slot] = attempt
                case m.AwaitQuota(slot):
                    self._begin(slot, "wait")
                case m.CancelLaunches():
                    assert self.tasks, "there is something to cancel"
                    self.cancelled |= self.tasks.keys()
                case m.Abandon():
                    self.held.clear()
        if store:
            self._commit(store)

    def _begin(self, slot: int, what: str) -> None:
        assert slot not in self.tasks, "one task for one slot"
        assert self.is_locked, "nothing is begun without the lock"
        assert not self.lock_is_lost or self.state.outcome is not m.Outcome.LOST
        self.tasks[slot] = what

    def _commit(self, effects: list[m.Effect]) -> None:
        """Commit all *effects* as one transaction, or pass the machine the event that says why not."""
        if isinstance(effects[0], m.LockRequest):
            fate = self.choose(8)
            if self.is_gone or fate == 0:
                self.inbox.append(m.LockRefused())
                return
            if fate == 1:
                self.inbox.append(m.LockLost())
                return
            self.is_locked = True
            self.inbox.append(m.LockGranted())
            self._save(effects)
            return
        assert self.is_locked, "the lock is given back once"
        assert not self.told_lost, "nothing is written once the lock is known to be lost"
        if self.lock_is_lost:
            self.inbox.append(m.LockLost())
            return
        saves = [e for e in effects if isinstance(e, m.Save)]
        assert self.state.outcome is not m.Outcome.GONE or not saves, "a request that is gone is not written"
        if saves and self.is_gone:
            self.inbox.append(m.CloseRefused())
            return
        touched = {n for e in effects if isinstance(e, m.HandOver | m.ReleaseNodes) for n in e.node_ids}
        assert touched <= self.held, "only nodes that are held are let go"
        if touched and self.choose(12) == 0:
            lost = min(touched)
            self.held.discard(lost)
            self.inbox.append(m.NodesLost((lost,)))
            return
        if saves and saves[0].state is RequestState.FULFILLED:
            self._check_fulfilled(effects, saves[0])
        self.held -= touched
        self._save(effects)
        if any(isinstance(e, m.UnlockRequest) for e in effects):
            self.is_locked = False
            self.inbox.append(m.Closed())

    def _save(self, effects: list[m.Effect]) -> None:
        self.saved += [e for e in effects if isinstance(e, m.Save)]

    def _check_fulfilled(self, effects: list[m.Effect], save: m.Save) -> None:
        kinds = [type(effect) for effect in effects]
        assert kinds == [m.HandOver, m.Save, m.UnlockRequest], "nodes first, then the request, then its lock"
        assert len(save.nodes) == len(self.state.request.node_types), "a node for each label"
        assert save.nodes == effects[0].node_ids  # type: ignore[union-attr]
        assert save.nodes == tuple(slot.node_id for slot in self.state.slots), "in the order of labels"
        assert not self.tasks, "nothing runs any more"

    # -- what may happen next ---------------------------------------------------------------------------------------

    def next_event(self) -> m.Event:
        """Something that may happen now, mostly an answer to an order."""
        if self.choose(12) == 0 and not self.is_gone:
            self.is_gone = True
            return m.RequestGone()
        if self.choose(25) == 0 and self.is_locked and not self.lock_is_lost:
            self.lock_is_lost = True
            return m.LockLost()
        if self.choose(25) == 0:
            return m.Withdrawn()
        if self.choose(25) == 0 and self.state.phase in (m.Phase.WORKING, m.Phase.DRAINING):
            return m.Failed(HandlerFailed("x"))
        if self.inbox:
            return self.inbox.pop(0)
        assert self.tasks, "something is outstanding, or it is over"
        slots = sorted(self.tasks)
        return self._answer(slots[self.choose(len(slots))])

    def _answer(self, slot: int) -> m.Event:
        what = self.tasks.pop(slot)
        if slot in self.cancelled and self.choose(3):
            return m.Stopped(slot)
        match what, self.choose(4):
            case "claim", 0:
                return m.ClaimLost(slot)
            case "claim", _:
                self.held.add(self.claims[slot])
                return m.NodeClaimed(slot, self.claims[slot])
            case "wait", _:
                return m.QuotaFreed(slot)
            case _, 0:
                return m.NodeFailed(slot, "x", is_final=self.choose(3) == 0)
            case _, 1 if self.quota_events < 10:
                self.quota_events += 1
                return m.NodeAborted(slot)
            case _:
                self.nodes_made += 1
                node_id = NodeId(f"{self.nodes_made:010d}")
                self.held.add(node_id)
                return m.NodeReady(slot, node_id)

    def check_end(self) -> None:
        outcome = self.state.outcome
        assert outcome is not None
        assert not self.tasks, "every task was answered for"
        assert not self.held, "no node stays locked"
        if outcome not in (m.Outcome.LOST, m.Outcome.LOCK_REFUSED):
            assert not self.is_locked, "the request is unlocked"
        last = self.saved[-1] if self.saved else None
        if outcome is m.Outcome.FULFILLED:
            assert last is not None
            assert last.state is RequestState.FULFILLED
        if outcome is m.Outcome.HANDED_BACK:
            assert last == m.Save(RequestState.REQUESTED), "it is handed back as requested"
        if outcome is m.Outcome.DECLINED:
            assert last is not None
            assert last.declined, "a decline says why"


def play(step: Stepper, seed: int, reuse: int, launches: int, *, declines: bool, can_launch: bool) -> None:
    choose = random.Random(seed).randrange

    plan = tuple(NodeId(f"{n:010d}") for n in range(reuse)) + (None,) * launches
    request = a_request().changed(node_types=("small",) * len(plan))
    verdict = Decline((LabelNotOffered("x"),)) if declines else Accept(plan, Usage())
    state, effects = m.start(request, verdict)
    world = World(step, state, choose, can_launch)
    world.perform(effects)
    for _ in range(MAX_STEPS):
        if world.state.is_done:
            break
        event = world.next_event()
        world.told_lost |= isinstance(event, m.LockLost)
        world.state, effects = step(world.state, event, retries=RETRIES, can_launch=can_launch)
        world.perform(effects)
    assert world.state.is_done, "it comes to an end"
    world.check_end()
    _, late = step(world.state, m.NodeReady(0, NodeId("0000000099")), retries=RETRIES)
    assert late == (m.ReleaseNodes((NodeId("0000000099"),)),), "a late node is let go"


def examples(step: Stepper, count: int) -> None:
    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        seed=st.integers(0, 2**32),
        reuse=st.integers(0, 3),
        launches=st.integers(0, 3),
        declines=st.booleans(),
        can_launch=st.booleans(),
    )
    def check(seed: int, reuse: int, launches: int, *, declines: bool, can_launch: bool) -> None:
        play(step, seed, reuse, launches if can_launch else 0, declines=declines, can_launch=can_launch)

    check()


def test_machine_keeps_its_promises_whatever_happens() -> None:
    """No node is assigned or kept by mistake, nothing is written after the lock is lost, and the machine always
    ends.
    """
    examples(m.step, 1500)


# -- planted bugs ---------------------------------------------------------------------------------------------------


def _bug(change: Callable[[m.State, m.Event, m.Step], m.Step]) -> Stepper:
    def step(state: m.State, event: m.Event, **options: object) -> m.Step:
        return change(state, event, m.step(state, event, **options))  # type: ignore[arg-type]

    return step


def _drop(kind: type) -> Stepper:
    return _bug(lambda _s, _e, done: (done[0], tuple(e for e in done[1] if not isinstance(e, kind))))


def _unlock_before_hand_over(_state: m.State, _event: m.Event, done: m.Step) -> m.Step:
    return done[0], tuple(sorted(done[1], key=lambda e: isinstance(e, m.HandOver)))


def _nodes_in_the_order_they_came(_state: m.State, _event: m.Event, done: m.Step) -> m.Step:
    def turn(effect: m.Effect) -> m.Effect:
        if isinstance(effect, m.HandOver):
            return m.HandOver(tuple(reversed(effect.node_ids)))
        if isinstance(effect, m.Save) and effect.nodes:
            return replace(effect, nodes=tuple(reversed(effect.nodes)))
        return effect

    return done[0], tuple(map(turn, done[1]))


def _retries_for_ever(state: m.State, event: m.Event, done: m.Step) -> m.Step:
    if isinstance(event, m.NodeFailed) and state.phase is m.Phase.WORKING:
        return m.step(state, event, retries=99)
    return done


def _saves_though_gone(_state: m.State, _event: m.Event, done: m.Step) -> m.Step:
    if done[0].outcome is m.Outcome.GONE and any(isinstance(e, m.UnlockRequest) for e in done[1]):
        return done[0], (m.Save(RequestState.REQUESTED), *done[1])
    return done


def _ignores_lost_lock(state: m.State, event: m.Event, done: m.Step) -> m.Step:
    return (state, ()) if isinstance(event, m.LockLost) and state.phase is m.Phase.DRAINING else done


def _fulfils_with_a_node_missing(state: m.State, event: m.Event, done: m.Step) -> m.Step:
    ready = [slot for slot in done[0].slots if slot.state is m.SlotState.READY]
    if isinstance(event, m.NodeReady) and state.phase is m.Phase.WORKING and len(ready) == len(done[0].slots) - 1:
        nodes = done[0].held
        effects = (m.HandOver(nodes), m.Save(RequestState.FULFILLED, nodes), m.UnlockRequest())
        return replace(done[0], phase=m.Phase.CLOSING, outcome=m.Outcome.FULFILLED), effects
    return done


def _does_not_wait_for_cancelled(_state: m.State, _event: m.Event, done: m.Step) -> m.Step:
    if any(isinstance(e, m.CancelLaunches) for e in done[1]):
        return replace(done[0], phase=m.Phase.CLOSING), (*done[1], m.UnlockRequest())
    return done


def _launches_twice(_state: m.State, _event: m.Event, done: m.Step) -> m.Step:
    launches = tuple(e for e in done[1] if isinstance(e, m.Launch))
    return done[0], (*done[1], *launches)


BUGS: dict[str, Stepper] = {
    "never unlocks": _drop(m.UnlockRequest),
    "never releases": _drop(m.ReleaseNodes),
    "never waits for quota": _drop(m.AwaitQuota),
    "unlocks nodes after the request": _bug(_unlock_before_hand_over),
    "nodes in another order": _bug(_nodes_in_the_order_they_came),
    "retries for ever": _bug(_retries_for_ever),
    "writes a request that is gone": _bug(_saves_though_gone),
    "ignores a lost lock": _bug(_ignores_lost_lock),
    "fulfils with a node missing": _bug(_fulfils_with_a_node_missing),
    "does not wait for cancelled launches": _bug(_does_not_wait_for_cancelled),
    "launches twice": _bug(_launches_twice),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug: str) -> None:
    with pytest.raises((AssertionError, m.InvalidTransitionError)):
        examples(BUGS[bug], 1500)
