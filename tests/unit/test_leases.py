"""Leases and slots: each step happens as a whole, and of two that exclude each other only one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.errors import LockBusyError, RecordGoneError, RequestFailedError
from nodelaunch.leases.cluster import StoreCluster
from nodelaunch.protocol import paths
from nodelaunch.protocol.cluster import Backing, Leases
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Claim, Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.store import Lock
from nodelaunch.store.embedded.store import EmbeddedStore
from support.builders import a_node
from support.launchers import LoopClock

pytestmark = pytest.mark.looptime
OWNER = "NodePool:metastatic:meta"


@dataclass
class Party:
    """A launcher's share in the table."""

    store: EmbeddedStore
    view: ClusterView
    leases: Leases

    @property
    def backing(self) -> Backing:
        (only,) = self.leases.backings()
        return only

    async def lease(self, slots: int = 2) -> Backing:
        """Ask for a backing node and play the pool that makes it."""
        obtaining = asyncio.create_task(
            self.leases.obtain("backing", label="slot", slots=slots, progress=lambda _request: None)
        )
        await answer(self.store)
        node_id = await obtaining
        return next(backing for backing in self.leases.backings() if backing.id == node_id)

    async def enter(self, number: int) -> Claim:
        claim = Claim(node_id=NodeId(f"{number:010d}"), label="slot", metadata={"number": str(number)})
        await self.leases.enter(claim)
        return claim


async def answer(store: EmbeddedStore, **changes: object) -> NodeId:
    """Fulfil the one request there is; *changes* are to its node."""
    while not (names := await store.children(paths.REQUESTS)):
        await asyncio.sleep(1)
    entry = await store.get(paths.request(RequestId(names[0])))
    request = NodeRequest.from_bytes(entry.path, entry.data, request_id=RequestId(names[0]))
    node = a_node(0, type=("backing",)).allocated(request).changed(**changes)
    made = await store.create(paths.NEW_NODE, node.to_bytes(), sequence=True)
    node_id = NodeId(made.path[-10:])
    fulfilled = request.into(RequestState.FULFILLED, 0.0, nodes=(node_id,))
    await store.put(entry.path, fulfilled.to_bytes())
    return node_id


@pytest.fixture
async def parties() -> AsyncIterator[tuple[Party, Party]]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(EmbeddedStore(None, clock=LoopClock().now))
        await store.ensure(*paths.ALWAYS_THERE)
        made = []
        for _ in range(2):
            session = await stack.enter_async_context(store.connect())
            view = await stack.enter_async_context(open_view(session))
            leases = await stack.enter_async_context(StoreCluster(session, view, LoopClock()).leases("meta"))
            made.append(Party(session, view, leases))
        yield made[0], made[1]


async def record(party: Party, node_id: NodeId) -> Node:
    entry = await party.store.get(paths.node(node_id))
    return Node.from_bytes(entry.path, entry.data, node_id=node_id)


async def test_one_slot_is_given_once(parties: tuple[Party, Party]) -> None:
    one, two = parties
    backing = await one.lease()
    first, second = await one.enter(101), await two.enter(102)
    given = await asyncio.gather(one.leases.place(first, backing, 0), two.leases.place(second, two.backing, 0))
    assert [claim is not None for claim in given] == [True, False]
    assert two.backing.taken == {0: first.node_id}
    assert (await two.leases.place(second, backing, 1)) == second.changed(backing=backing.id, slot=1)


async def test_one_claim_gets_one_slot(parties: tuple[Party, Party]) -> None:
    one, two = parties
    backing = await one.lease()
    claim = await one.enter(101)
    given = await asyncio.gather(one.leases.place(claim, backing, 0), two.leases.place(claim, backing, 1))
    assert sum(placed is not None for placed in given) == 1
    assert len(one.backing.taken) == 1


async def test_claim_entered_again_keeps_its_slot(parties: tuple[Party, Party]) -> None:
    one, _ = parties
    backing = await one.lease()
    claim = await one.enter(101)
    placed = await one.leases.place(claim, backing, 1)
    await one.leases.enter(claim)
    assert await one.leases.find(claim.node_id) == placed


async def test_node_with_a_taken_slot_is_not_released(parties: tuple[Party, Party]) -> None:
    one, two = parties
    backing = await one.lease()
    claim = await two.enter(101)
    assert await two.leases.place(claim, backing, 0)
    assert not await one.leases.release(backing)
    assert (await record(one, backing.id)).state is NodeState.IN_USE
    await two.leases.free(claim.node_id)
    assert await one.leases.release(one.backing)
    assert not await two.leases.release(backing)


async def test_released_node_is_used_and_unlocked_and_takes_nobody_in(parties: tuple[Party, Party]) -> None:
    one, two = parties
    backing = await one.lease()
    claim = await two.enter(101)
    assert await one.leases.release(backing)
    assert (await record(one, backing.id)).state is NodeState.USED
    assert await one.store.contenders(paths.node_lock(backing.id)) == []
    assert await two.leases.place(claim, backing, 0) is None
    assert not two.leases.backings()


async def test_slot_is_not_given_on_a_node_that_changed(parties: tuple[Party, Party]) -> None:
    """The view may be a moment behind: what counts is the record at the time of the transaction."""
    one, two = parties
    backing = await one.lease()
    claim = await one.enter(101)
    before = one.view.nodes[backing.id]
    deleting = before.record.into(NodeState.DELETING, 0.0)
    await two.store.put(paths.node(backing.id), deleting.to_bytes())
    one.view.nodes[backing.id] = before
    assert await one.leases.place(claim, backing, 0) is None
    assert await one.store.children(paths.lease("meta", backing.id)) == []


async def test_failing_is_told_in_table_and_record_once(parties: tuple[Party, Party]) -> None:
    one, two = parties
    backing = await one.lease()
    await asyncio.gather(one.leases.fail(backing), two.leases.fail(backing))
    assert two.backing.lease.is_failed
    node = await record(one, backing.id)
    assert json.loads(node.user_data) == {
        "owner": OWNER, "label": "slot", "slots": 2, "failed": True, "launched": backing.lease.launched_at,
    }  # fmt: skip
    assert node.state is NodeState.IN_USE


async def test_freeing_twice_and_the_unknown_is_fine(parties: tuple[Party, Party]) -> None:
    one, two = parties
    backing = await one.lease()
    claim = await one.enter(101)
    assert await one.leases.place(claim, backing, 0)
    await asyncio.sleep(10)
    await asyncio.gather(one.leases.free(claim.node_id), two.leases.free(claim.node_id))
    await one.leases.free(NodeId("0000000999"))
    assert await one.leases.find(claim.node_id) is None
    assert one.backing.is_empty
    assert one.backing.lease.used_at == backing.lease.used_at + 10


async def test_node_that_is_still_ours_is_not_forgotten(parties: tuple[Party, Party]) -> None:
    one, _ = parties
    backing = await one.lease()
    assert not await one.leases.forget(backing)
    assert one.backing == backing


@pytest.mark.parametrize("state", [NodeState.HOLD, NodeState.USED])
async def test_node_that_is_ours_no_more_is_forgotten_and_unlocked(
    parties: tuple[Party, Party], state: NodeState
) -> None:
    one, two = parties
    backing = await one.lease()
    claim = await one.enter(101)
    assert await one.leases.place(claim, backing, 0)
    node = await record(one, backing.id)
    await one.store.put(paths.node(backing.id), node.into(state, 0.0).to_bytes())
    assert one.backing.node is None
    assert await two.leases.forget(two.backing)
    assert not one.leases.backings()
    assert not one.leases.claims()
    assert await one.store.contenders(paths.node_lock(backing.id)) == []
    assert (await record(one, backing.id)).state is state


async def test_failed_request_is_told_and_deleted(parties: tuple[Party, Party]) -> None:
    one, _ = parties
    obtaining = asyncio.create_task(one.leases.obtain("backing", label="slot", slots=1, progress=lambda _request: None))
    while not (names := await one.store.children(paths.REQUESTS)):
        await asyncio.sleep(1)
    entry = await one.store.get(paths.request(RequestId(names[0])))
    request = NodeRequest.from_bytes(entry.path, entry.data, request_id=RequestId(names[0]))
    assert request.requestor == OWNER
    failed = request.into(RequestState.FAILED, 0.0, declined_by=("a", "b"))
    await one.store.put(entry.path, failed.to_bytes())
    with pytest.raises(RequestFailedError) as caught:
        await obtaining
    assert caught.value.declined_by == ("a", "b")
    assert await one.store.children(paths.REQUESTS) == []


async def test_cancelled_obtaining_leaves_no_request(parties: tuple[Party, Party]) -> None:
    one, _ = parties
    obtaining = asyncio.create_task(one.leases.obtain("backing", label="slot", slots=1, progress=lambda _request: None))
    while not await one.store.children(paths.REQUESTS):
        await asyncio.sleep(1)
    obtaining.cancel()
    await asyncio.gather(obtaining, return_exceptions=True)
    assert await one.store.children(paths.REQUESTS) == []


async def test_node_allocated_to_somebody_else_is_not_leased(parties: tuple[Party, Party]) -> None:
    one, _ = parties
    obtaining = asyncio.create_task(one.leases.obtain("backing", label="slot", slots=1, progress=lambda _request: None))
    node_id = await answer(one.store, allocated_to=RequestId("200-0000000099"))
    with pytest.raises(RecordGoneError):
        await obtaining
    assert not one.leases.backings()
    assert await one.store.contenders(paths.node_lock(node_id)) == []


@pytest.mark.parametrize(
    ("state", "slot", "taken"),
    [
        (NodeState.IN_USE, 1, {0, 1}), (NodeState.READY, 1, {0, 1}), (NodeState.DELETING, 1, {0}),
        (NodeState.IN_USE, 0, {0}),
    ],
)  # fmt: skip
async def test_slot_given_by_nodepools_launcher_meanwhile_is_known(
    parties: tuple[Party, Party], state: NodeState, slot: int, taken: set[int]
) -> None:
    one, two = parties
    backing = await one.lease()
    claim = await one.enter(101)
    assert await one.leases.place(claim, backing, 0)
    data = {"metadata": {}, "backing_node": backing.id, "slot": slot, "node": "x"}
    node = a_node(0, state, provider="meta", type=("slot",), driver_data=data)
    made = await one.store.create(paths.NEW_NODE, node.to_bytes(), sequence=True)
    await asyncio.gather(one.leases.adopt(), two.leases.adopt())
    assert set(two.backing.taken) == taken
    assert two.backing.taken[0] == claim.node_id
    found = await two.leases.find(NodeId(made.path[-10:]))
    assert (found is not None) == (len(taken) == 2)


async def test_unreadable_entries_are_left_alone(parties: tuple[Party, Party]) -> None:
    one, two = parties
    backing = await one.lease()
    await one.store.create(paths.lease("meta", NodeId("broken")), b"{")
    await one.store.create(paths.claim("meta", NodeId("broken")), b"[]")
    assert [each.id for each in two.leases.backings()] == [backing.id]
    assert list(two.leases.claims()) == []
    await two.leases.free(NodeId("broken"))
    assert await one.store.children(paths.claims("meta")) == []


async def test_who_contended_before_gets_the_lock_only_after_it_gave_up(parties: tuple[Party, Party]) -> None:
    """A contender between our short-lived contender and our lasting one must not hold the lock once ours stands."""
    one, two = parties
    waiting: list[asyncio.Task[Lock]] = []
    commit = one.store.commit

    async def contended(*args: object, **kwargs: object) -> object:
        (node_id,) = await one.store.children(paths.NODES)
        waiting.append(asyncio.create_task(two.store.lock(paths.node_lock(NodeId(node_id)), timeout_s=5)))
        await asyncio.sleep(1)
        return await commit(*args, **kwargs)  # type: ignore[arg-type]

    one.store.commit = contended  # type: ignore[method-assign,assignment]
    started = asyncio.get_running_loop().time()
    backing = await one.lease()
    with pytest.raises(LockBusyError):
        await waiting[0]
    assert asyncio.get_running_loop().time() - started >= 5
    (contender,) = await one.store.contenders(paths.node_lock(backing.id))
    assert (await one.store.get(contender)).data == OWNER.encode()


async def test_client_that_breaks_off_gives_the_lock_back(parties: tuple[Party, Party]) -> None:
    one, _ = parties
    async with NodeClient(one.store, clock=LoopClock()) as client:
        handle = await client.submit(["backing"])
        node_id = await answer(one.store, allocated_to=None)
        request = await handle.finished()
        with pytest.raises(RecordGoneError):
            await client.keep(request, user_data=None)
    assert await one.store.contenders(paths.node_lock(node_id)) == []


async def test_a_backing_node_that_is_just_being_leased_is_not_forgotten(
    parties: tuple[Party, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is held for a moment before the contender that stays comes first; another may not know the node yet."""
    one, two = parties
    committed, may_end = asyncio.Event(), asyncio.Event()

    async def lingering(_client: NodeClient, _lock: Lock, _contender: str) -> None:
        committed.set()
        await may_end.wait()

    monkeypatch.setattr(NodeClient, "_until_next", lingering)
    leasing = asyncio.ensure_future(one.lease())
    await committed.wait()
    while not two.leases.backings():
        await asyncio.sleep(1)
    assert not await two.leases.forget(replace(two.backing, node=None))
    may_end.set()
    backing = await leasing
    assert not await two.leases.forget(replace(backing, node=None))
    assert two.backing.id == backing.id
