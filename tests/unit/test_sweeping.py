"""Decisions of the sweeper and the order of its work, without a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from nodelaunch.engine.cleanup.abandoned import GRACE_S, AbandonedNodes
from nodelaunch.engine.cleanup.ages import ORPHAN_S, RETRY_S, AgeLimits, OldNodes
from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.engine.cleanup.deadlines import SLACK, Deadlines
from nodelaunch.engine.cleanup.leaksearch import LeakSearch
from nodelaunch.engine.cleanup.lostrequests import LostRequests
from nodelaunch.engine.cleanup.queue import FIRST_BACKOFF_S, NodeKey, RequestKey, WorkQueue
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest, PoolRegistration, Presence
from nodelaunch.protocol.states import ABANDONED_WHEN_UNLOCKED, NodeState, RequestState
from nodelaunch.protocol.store import Entry, Stat

pytestmark = pytest.mark.looptime

NODE = NodeId("0000000001")
REQUEST = RequestId("200-0000000001")
NOW = 1_700_000_000.0


# -- deadlines ------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 9))
        | st.tuples(st.just("due"), st.integers(0, 9)),
        max_size=60,
    )
)
def test_deadlines_are_those_last_set(steps: list[tuple[str, int | None]]) -> None:
    deadlines: Deadlines[str] = Deadlines()
    wanted: dict[str, float] = {}
    for key, when in steps:
        if key == "due":
            assert when is not None
            passed = deadlines.due(when)
            assert sorted(passed) == sorted(k for k, at in wanted.items() if at <= when)
            times = [wanted.pop(k) for k in passed]
            assert times == sorted(times)
        elif when is None:
            deadlines.forget(key)
            wanted.pop(key, None)
        else:
            deadlines.set(key, when)
            wanted[key] = when
        assert deadlines.next == min(wanted.values(), default=None)
        assert len(deadlines) == len(wanted)


def test_passed_deadlines_come_in_order() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key, when in {"a": 3.0, "b": 1.0, "c": 2.0, "d": 9.0}.items():
        deadlines.set(key, when)
    assert deadlines.due(3.0) == ["b", "c", "a"]
    assert deadlines.due(3.0) == []


def test_it_is_told_when_another_deadline_comes_first() -> None:
    told: list[int] = []
    deadlines: Deadlines[str] = Deadlines(lambda: told.append(1))
    deadlines.set("a", 5.0)
    deadlines.set("b", 7.0)
    assert len(told) == 1
    deadlines.set("b", 4.0)
    assert len(told) == 2


def test_deadlines_that_count_no_more_take_no_memory() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for when in range(10_000):
        deadlines.set("a", float(when))
    assert len(deadlines._heap) <= 2 + SLACK + 1


# -- the queue ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(queue: WorkQueue) -> AsyncIterator[WorkQueue]:
    async with asyncio.TaskGroup() as group:
        queue.open(group)
        try:
            yield queue
        finally:
            queue.close()
            for task in list(group._tasks):  # type: ignore[attr-defined]
                task.cancel()


@pytest.fixture
def queue() -> WorkQueue:
    return WorkQueue(lambda: True)


def key(number: int) -> NodeKey:
    return NodeKey(NodeId(f"{number:010d}"))


async def test_of_one_thing_one_work_is_done_at_a_time(queue: WorkQueue) -> None:
    gate = asyncio.Event()
    async with opened(queue):
        assert queue.start(key(1), "cloud", gate.wait)
        assert not queue.start(key(1), "other", gate.wait)
        assert queue.start(RequestKey(REQUEST), "", gate.wait)
        gate.set()
        await queue.settled()
        assert queue.start(key(1), "cloud", gate.wait)


async def test_work_that_hangs_at_one_provider_stops_no_other(queue: WorkQueue) -> None:
    done: list[int] = []

    async def event(number: int) -> None:
        done.append(number)

    async with opened(queue):
        for number in range(2 * queue.limit):
            assert queue.start(key(number), "hangs", asyncio.Event().wait)
        for number in range(1000, 1003):
            assert queue.start(key(number), "works", event, number)
        await asyncio.sleep(1)
        assert done == [1000, 1001, 1002]
        assert queue._lanes["hangs"].running == queue.limit


async def test_work_waits_for_its_turn_in_order(queue: WorkQueue) -> None:
    queue.limit = 1
    done: list[int] = []

    async def event(number: int) -> None:
        await asyncio.sleep(1)
        done.append(number)

    async with opened(queue):
        for number in range(3):
            queue.start(key(number), "cloud", event, number)
        await queue.settled()
        assert done == [0, 1, 2]
        assert not queue._lanes


async def test_a_fault_stays_with_its_work_and_the_thing_is_looked_at_again(queue: WorkQueue) -> None:
    again: list[Any] = []
    queue.again = again.append

    async def fail() -> None:
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as logged:
        async with opened(queue):
            queue.start(key(1), "cloud", fail)
            await queue.settled()
    assert [entry["event"] for entry in logged] == ["sweep_step_failed"]
    assert again == [key(1)]


async def test_what_failed_is_left_alone_for_a_growing_while(queue: WorkQueue) -> None:
    loop, again = asyncio.get_running_loop(), []
    async with opened(queue):
        queue.again = lambda key: again.append((key, loop.time()))
        begun = loop.time()
        assert queue.failed(key(1)) == FIRST_BACKOFF_S
        assert not queue.start(key(1), "cloud", asyncio.sleep, 0)
        await asyncio.sleep(FIRST_BACKOFF_S + 1)
        assert again == [(key(1), begun + FIRST_BACKOFF_S)]
        assert queue.failed(key(1)) == 2 * FIRST_BACKOFF_S
        queue.succeeded(key(1))
        assert queue.start(key(1), "cloud", asyncio.sleep, 0)


async def test_nothing_is_begun_without_a_session() -> None:
    is_able = False
    async with opened(WorkQueue(lambda: is_able)) as queue:
        assert not queue.start(key(1), "cloud", asyncio.sleep, 0)
        is_able = True
        assert queue.start(key(1), "cloud", asyncio.sleep, 0)


# -- decisions ------------------------------------------------------------------------------------------------------


class Recorded:
    """A queue that notes what it is asked to do."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.accepts = True

    def start(self, _key: Any, _lane: str, work: Callable[..., Any], *_args: Any) -> bool:
        if self.accepts:
            self.begun.append(work.__name__)
        return self.accepts

    def succeeded(self, _key: Any) -> None:
        pass


class World:
    """A view with one node, and the parts of the sweeper that look at it."""

    def __init__(self, *, max_ready_age: float = 0.0, max_hold_age: float = 0.0, own_id: str = "") -> None:
        self.view = ClusterView()
        self.view.is_synced = True
        self.now = NOW
        self.queue = Recorded()
        self.served = True
        provider = SimpleNamespace(name="cloud", can_launch=True)
        clock: Any = SimpleNamespace(now=lambda: self.now)
        store: Any = None
        self.ctx = SweepContext(store, self.view, clock, {"cloud": provider}, self.queue, lambda: None, own_id)  # type: ignore[dict-item, arg-type]
        self.nodes = AbandonedNodes(self.ctx)
        self.requests = LostRequests(self.ctx, self.nodes)
        ages = AgeLimits({"small": max_ready_age}, max_hold_age)
        self.old = OldNodes(self.ctx, ages, lambda _node: self.served)

    def put(self, state: NodeState, **fields: Any) -> None:
        node = Node(id=NODE, state=state, state_time=NOW, provider="cloud", pool="main", type=("small",))
        stat = Stat(1, 1, 1, NOW, NOW)
        self.view.node_entry_changed(Entry(paths.node(NODE), node.changed(**fields).to_bytes(), stat))

    def lock(self, is_locked: bool = True) -> None:
        path = f"{paths.node_lock(NODE)}/x__lock__0000000000"
        if is_locked:
            self.view.node_entry_changed(Entry(path, b"", Stat(0, 0, 0, 0.0, 0.0)))
        else:
            self.view.node_entry_removed(path)

    def ask(self, state: RequestState) -> None:
        data = NodeRequest(id=REQUEST, state=state).to_bytes()
        self.view.request_entry_changed(Entry(paths.request(REQUEST), data, Stat(1, 1, 1, NOW, NOW)))

    async def decided(self) -> list[str]:
        self.nodes.look(NODE)
        await asyncio.sleep(0)  # the lock of a node that is just being made is reported after its record
        begun, self.queue.begun = self.queue.begun, []
        return begun


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("state", NodeState)
async def test_only_what_nobody_may_leave_is_deleted_when_unlocked(world: World, state: NodeState) -> None:
    world.put(state)
    world.view.discarded.add(NODE)
    assert await world.decided() == (["delete"] if state in ABANDONED_WHEN_UNLOCKED else [])
    world.lock()
    assert await world.decided() == []


@pytest.mark.parametrize("state", [NodeState.DELETING, NodeState.DELETED])
async def test_what_another_deletes_is_left_to_it_for_a_while(world: World, state: NodeState) -> None:
    loop = asyncio.get_running_loop()
    world.put(state)
    assert await world.decided() == []
    assert world.nodes.graces.next == loop.time() + GRACE_S[state]
    await asyncio.sleep(GRACE_S[state])
    assert world.nodes.graces.due(loop.time()) == [NODE]
    assert await world.decided() == ["delete"]


async def test_a_node_being_made_is_locked_in_the_same_turn(world: World) -> None:
    world.put(NodeState.BUILDING)
    world.nodes.look(NODE)
    world.lock()
    await asyncio.sleep(0)
    assert world.queue.begun == []


async def test_an_interrupted_launch_is_offered_while_its_request_waits(world: World) -> None:
    world.ask(RequestState.REQUESTED)
    world.put(NodeState.BUILDING, allocated_to=REQUEST)
    assert await world.decided() == ["offer"]
    world.view.interrupted[NODE] = 1
    assert await world.decided() == []
    world.ask(RequestState.FAILED)
    world.requests.look(REQUEST)
    await asyncio.sleep(0)
    assert world.queue.begun == ["delete"]


async def test_the_grace_of_a_node_begins_anew_when_somebody_was_at_it(world: World) -> None:
    world.put(NodeState.DELETING)
    await world.decided()
    world.lock()
    await world.decided()
    assert not world.nodes.left
    assert not world.nodes.graces


async def test_a_ready_node_whose_request_is_gone_is_freed(world: World) -> None:
    world.ask(RequestState.FULFILLED)
    world.put(NodeState.READY, allocated_to=REQUEST)
    assert await world.decided() == []
    world.view.request_entry_removed(paths.request(REQUEST))
    world.requests.removed(REQUEST)
    assert world.queue.begun == ["deallocate"]


async def test_a_node_that_was_taken_and_used_meanwhile_is_not_freed(world: World) -> None:
    """The node may have changed between the search for work and the turn of this work."""
    world.put(NodeState.USED, allocated_to=REQUEST)
    await world.nodes.deallocate(NODE)  # without a store: nothing is asked and nothing written


async def test_nodes_of_providers_that_are_not_ours_are_left_alone(world: World) -> None:
    world.put(NodeState.USED, provider="elsewhere")
    assert await world.decided() == []
    world.put(NodeState.USED, provider=None)
    assert await world.decided() == ["remove_debris"]


@pytest.mark.parametrize(
    ("state", "is_locked", "begun"),
    [
        (RequestState.PENDING, False, ["reset"]),
        (RequestState.PENDING, True, []),
        (RequestState.REQUESTED, False, []),
        (RequestState.FULFILLED, False, []),
    ],
)
async def test_a_pending_request_nobody_works_on_is_reset(
    world: World, state: RequestState, is_locked: bool, begun: list[str]
) -> None:
    world.ask(state)
    if is_locked:
        path = f"{paths.request_lock(REQUEST)}/x__lock__0000000000"
        world.view.request_lock_entry_changed(Entry(path, b"", Stat(0, 0, 0, 0.0, 0.0)))
    world.requests.look(REQUEST)
    assert world.queue.begun == []
    await asyncio.sleep(0)
    assert world.queue.begun == begun
    world.requests.look_at_all()
    await asyncio.sleep(0)
    assert world.queue.begun == begun * 2


async def test_a_lock_told_right_after_the_record_counts(world: World) -> None:
    world.ask(RequestState.PENDING)
    world.requests.look(REQUEST)
    path = f"{paths.request_lock(REQUEST)}/x__lock__0000000000"
    world.view.request_lock_entry_changed(Entry(path, b"", Stat(0, 0, 0, 0.0, 0.0)))
    await asyncio.sleep(0)
    assert world.queue.begun == []


async def test_the_lock_directory_of_a_request_goes_after_it(world: World) -> None:
    world.ask(RequestState.FULFILLED)
    world.view.request_lock_entry_changed(Entry(paths.request_lock(REQUEST), b"", Stat(0, 0, 0, NOW, NOW)))
    world.requests.look(REQUEST)
    await asyncio.sleep(0)
    assert world.queue.begun == []
    world.view.request_entry_removed(paths.request(REQUEST))
    world.requests.removed(REQUEST)
    assert world.queue.begun == ["remove_lock_dir"]


@pytest.mark.parametrize("processes", [("one", "two"), ("two", "three")])
async def test_of_several_processes_one_clears_up_after_a_request(processes: tuple[str, str]) -> None:
    begun = []
    for own_id in processes:
        world = World(own_id=own_id)
        for session, process in enumerate(processes, 1):
            stat = Stat(1, 1, 1, NOW, NOW, owner=session)
            pool = PoolRegistration(id=f"pool-{process}", name="main", provider_name="cloud")
            world.view.pool_entry_changed(Entry(f"{paths.POOLS}/{process}", pool.to_bytes(), stat))
            presence = Presence(id=process)
            world.view.presence_entry_changed(Entry(f"{paths.PRESENCES}/{process}", presence.to_bytes(), stat))
        world.view.request_lock_entry_changed(Entry(paths.request_lock(REQUEST), b"", Stat(0, 0, 0, NOW, NOW)))
        world.requests.removed(REQUEST)
        begun += world.queue.begun
    assert begun == ["remove_lock_dir"]


@pytest.mark.parametrize(
    ("state", "fields", "limit"),
    [
        (NodeState.READY, {}, 300.0),
        (NodeState.READY, {"allocated_to": REQUEST}, None),
        (NodeState.HOLD, {"hold_expiration": 50}, 50.0),
        (NodeState.HOLD, {}, 900.0),
        (NodeState.INIT, {}, ORPHAN_S),
        (NodeState.IN_USE, {}, None),
    ],
)
async def test_nodes_go_when_they_are_too_old(state: NodeState, fields: dict[str, Any], limit: float | None) -> None:
    world = World(max_ready_age=300.0, max_hold_age=900.0)
    world.put(state, **fields)
    world.old.look(NODE)
    assert world.old.deadlines.next == (None if limit is None else NOW + limit)
    if limit is not None:
        world.now = NOW + limit - 1
        world.old.discard_due()
        assert world.queue.begun == []
        world.now = NOW + limit
        world.old.discard_due()
        assert world.queue.begun == ["_mark"]


async def test_a_node_in_use_when_its_time_has_come_is_looked_at_again(world: World) -> None:
    world.old.ages = AgeLimits({"small": 300.0})
    world.put(NodeState.READY)
    world.old.look(NODE)
    world.lock()
    world.now = NOW + 301
    world.old.discard_due()
    assert world.queue.begun == []
    world.lock(is_locked=False)
    world.old.look(NODE)
    world.old.discard_due()
    assert world.queue.begun == ["_mark"]


async def test_another_limit_holds_from_the_reload_on(world: World) -> None:
    world.put(NodeState.READY)
    world.old.refill()
    assert world.old.deadlines.next is None
    world.old.ages = AgeLimits({"small": 10.0})
    world.old.refill()
    assert world.old.deadlines.next == NOW + 10.0


async def test_what_can_not_be_discarded_now_is_tried_again(world: World) -> None:
    world.served = world.queue.accepts = False
    world.put(NodeState.READY)
    world.old.look_at_idle(NODE)
    assert world.old.deadlines.next == NOW + RETRY_S
    world.queue.accepts, world.now = True, NOW + RETRY_S
    world.old.discard_due()
    assert world.queue.begun == ["_mark"]


async def test_an_idle_node_that_no_pool_hands_out_goes(world: World) -> None:
    world.put(NodeState.READY)
    world.old.look_at_all_idle()
    assert world.queue.begun == []
    world.served = False
    world.lock()
    world.old.look_at_all_idle()
    assert world.queue.begun == []
    world.lock(is_locked=False)
    world.now = NOW + RETRY_S
    world.old.discard_due()
    assert world.queue.begun == ["_mark"]


# -- leaks ----------------------------------------------------------------------------------------------------------


async def test_a_driver_that_fails_or_hangs_in_the_search_for_leaks_disturbs_no_other(world: World) -> None:
    looked: list[str] = []

    class Searched(LeakSearch):
        async def search(self, provider: Any) -> None:
            looked.append(provider.name)
            if provider.name == "hangs":
                await asyncio.Event().wait()
            raise ZeroDivisionError

    providers: Any = {name: SimpleNamespace(name=name) for name in ("fails", "hangs")}
    search = Searched(replace(world.ctx, providers=providers), lambda: 60.0)
    with structlog.testing.capture_logs() as logged:
        async with asyncio.TaskGroup() as group:
            search.open(group)
            await asyncio.sleep(185)
            del providers["fails"]
            search.close()
            await asyncio.sleep(60)
            for task in list(group._tasks):  # type: ignore[attr-defined]
                task.cancel()
    assert looked.count("hangs") == 1
    assert looked.count("fails") == 3
    assert [entry["event"] for entry in logged] == ["leaks_unknown"] * 3
