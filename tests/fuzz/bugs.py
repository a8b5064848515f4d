"""Bugs to plant into the code under test, each with the rules that may find it.

What does *not* belong here: looking for them (test_planted_bugs.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from fuzz.scenario import PAUSED_FROM
from nodelaunch.decisions import machine as m
from nodelaunch.decisions.scheduling import Schedule
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.engine import nodelocks
from nodelaunch.engine.cleanup import abandoned, deletion, sweeper
from nodelaunch.engine.cleanup.abandoned import AbandonedNodes
from nodelaunch.engine.cleanup.leaksearch import LeakSearch
from nodelaunch.engine.cleanup.lostrequests import LostRequests
from nodelaunch.engine.launch import node as launch
from nodelaunch.engine.launch.attempts import Attempt
from nodelaunch.engine.launch.slots import Slots
from nodelaunch.engine.limits.reservations import Reservations
from nodelaunch.engine.limits.sharing import SharedCapacity
from nodelaunch.engine.nodelocks import HeldNode
from nodelaunch.engine.serve import handler
from nodelaunch.engine.serve.handler import RequestHandler
from nodelaunch.engine.serve.pool import Pool
from nodelaunch.engine.supply.minready import MinReady
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import QuotaExceededError
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import ExternalId
from nodelaunch.protocol.quota import NOTHING, Usage
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.store import ReleaseLock
from nodelaunch.store.embedded.znodes import Put


@dataclass(frozen=True, slots=True)
class Bug:
    plant: Callable[[], AbstractContextManager[Any]]
    rules: frozenset[str]
    """Rules of which one must be the first to be broken."""
    first_seed: int = 0
    """First seed of the search."""


BUGS: dict[str, Bug] = {}


def _bug(name: str, *rules: str, first_seed: int = 0) -> Callable[[Callable[[], AbstractContextManager[Any]]], None]:
    def register(plant: Callable[[], AbstractContextManager[Any]]) -> None:
        BUGS[name] = Bug(plant, frozenset(rules), first_seed)

    return register


@_bug("nodes are unlocked only after the request is fulfilled", "nodes are unlocked when given")
def _unlock_late() -> AbstractContextManager[Any]:
    commit = RequestHandler._commit

    async def in_two_steps(self: RequestHandler, effects: list[m.Effect]) -> None:
        hand_over = [effect for effect in effects if isinstance(effect, m.HandOver)]
        if not hand_over:
            await commit(self, effects)
            return
        save = next(effect for effect in effects if isinstance(effect, m.Save))
        written = [op for effect in (*hand_over, save) for op in self._ops(effect) if isinstance(op, Put)]
        await self._ctx.store.commit(written)
        for held in self._held.values():
            held.is_written = True
        rest = [effect for effect in effects if effect is not save]
        await commit(self, rest)

    return mock.patch.object(RequestHandler, "_commit", in_two_steps)


@_bug("launchers that share a provider do not heed each other", "capacity is never exceeded")
def _unshared() -> AbstractContextManager[Any]:
    return mock.patch.object(SharedCapacity, "is_shared", False)


@_bug("launchers that share a tenant do not heed each other", "tenants get what they may have", first_seed=190)
def _unshared_tenant() -> AbstractContextManager[Any]:
    return mock.patch.object(SharedCapacity, "shares_tenant", return_value=False)


@_bug("reserved room counts as free", "capacity is never exceeded", "tenants get what they may have")
def _reserved_is_free() -> AbstractContextManager[Any]:
    @contextmanager
    def planted() -> Iterator[None]:
        with (
            mock.patch.object(Reservations, "of_pool", return_value=NOTHING),
            mock.patch.object(Reservations, "of_provider", return_value=NOTHING),
            mock.patch.object(Reservations, "of_tenant", return_value=NOTHING),
        ):
            yield

    return planted()


@_bug(
    "a node is not checked again under its lock",
    "a node is freed before it is given again", "what was given stays given", "nodes move as agreed",
    first_seed=150,
)  # fmt: skip
def _no_second_look() -> AbstractContextManager[Any]:
    return mock.patch.object(nodelocks, "Put", lambda path, data, _version, record: Put(path, data, record=record))


@_bug("nodes given back stay allocated", "a request handed back leaves its nodes free", "what was given stays given")
def _stay_allocated() -> AbstractContextManager[Any]:
    return mock.patch.object(HeldNode, "give_back_ops", lambda self: [ReleaseLock(self.lock)])


@_bug("nodes are deleted without their lock", "a node is written under its lock")
def _delete_without_lock() -> AbstractContextManager[Any]:
    async def delete(store: Any, view: ClusterView, clock: Any, provider: Any, node_id: Any) -> bool:
        seen = view.nodes.get(node_id)
        if seen is not None:
            gone = seen.record.into(NodeState.DELETING, clock.now())
            await store.put(seen.path, gone.to_bytes(), version=seen.version)
        return seen is not None

    return mock.patch.object(abandoned, "delete_node", delete)


@_bug(
    "nodes locked by others count as abandoned",
    "locks are removed by their owners", "nodes are removed after deletion", "a node is written under its lock",
)  # fmt: skip
def _locked_counts_as_abandoned() -> AbstractContextManager[Any]:
    async def remove(self: AbandonedNodes, node_id: Any) -> None:
        await self._ctx.store.delete_tree(paths.node(node_id))

    @contextmanager
    def planted() -> Iterator[None]:
        with (
            mock.patch.object(ClusterView, "is_node_locked", return_value=False),
            mock.patch.object(ClusterView, "locked_nodes", ()),
            mock.patch.object(AbandonedNodes, "delete", remove),
            mock.patch.object(AbandonedNodes, "offer", remove),
        ):
            yield

    return planted()


@_bug("only ready nodes count as used", "capacity is never exceeded", "tenants get what they may have")
def _only_ready_count() -> AbstractContextManager[Any]:
    def used(self: ClusterView, provider: str, pool_name: str | None = None) -> Usage:
        ready = [s.record for s in self.nodes_of(provider) if s.record.state is NodeState.READY]
        return Usage.total(n.usage or Usage() for n in ready if pool_name in (None, n.pool))

    return mock.patch.object(ClusterView, "used", used)


@_bug(
    "a lost session is not noticed",
    "a node is written under its lock", "a request is written under its lock", "nodes move as agreed",
)  # fmt: skip
def _session_loss_ignored() -> AbstractContextManager[Any]:
    async def save(ctx: Any, held: HeldNode, node: Any) -> None:
        op = held.put_op(node)
        await ctx.store.session.connected()
        entry = await ctx.store.put(op.path, op.data)
        held.node, held.version = node, entry.stat.version

    opened = RequestHandler._opened

    def unwatched(self: RequestHandler, results: list[Any]) -> None:
        opened(self, results)
        assert self._stop_watching is not None
        self._stop_watching()

    @contextmanager
    def planted() -> Iterator[None]:
        with mock.patch.object(launch, "save", save), mock.patch.object(RequestHandler, "_opened", unwatched):
            yield

    return planted()


@_bug("nodes kept ready are left to the sweeper", "nodes kept ready are freed before their request goes")
def _not_freed() -> AbstractContextManager[Any]:
    async def nothing(*_: Any) -> bool:
        return True

    return mock.patch.object(MinReady, "_free_nodes", nothing)


@_bug("min-ready forgets what it has asked for", "no more is kept ready than configured", "nothing goes on for ever")
def _min_ready_forgets() -> AbstractContextManager[Any]:
    return mock.patch.object(MinReady, "_outstanding", return_value=0)


@_bug("later requests are served first", "first come, first served")
def _last_come_first_served() -> AbstractContextManager[Any]:
    put = Schedule.put

    def reverse(self: Schedule, request: NodeRequest, *, is_alone: bool = False) -> None:
        put(self, request.changed(relative_priority=-int(request.id[-10:])), is_alone=is_alone)

    return mock.patch.object(Schedule, "put", reverse)


@_bug(
    "what a failed attempt left is not deleted",
    "a node has one server", "capacity is never exceeded", "a record goes after its server",
)  # fmt: skip
def _no_clean_up() -> AbstractContextManager[Any]:
    async def forget(ctx: Any, held: HeldNode, _error: Any) -> bool:
        if held.external_id is not None:
            await nodelocks.save(ctx, held, held.node.changed(external_id=None))
        return True

    return mock.patch.object(launch, "_clean_up_attempt", forget)


@_bug("whatever the view does not explain is a leak", "no server in use is deleted")
def _leaks_by_a_cold_view() -> AbstractContextManager[Any]:
    async def search(self: LeakSearch, provider: Any) -> None:
        for node_id, ids in (await provider.instances_by_node()).items():
            seen = self._ctx.view.nodes.get(node_id)
            if seen is None or seen.record.external_id not in ids:
                for external_id in ids:
                    await provider.driver.delete_instance(ExternalId(external_id))

    @contextmanager
    def planted() -> Iterator[None]:
        with mock.patch.object(LeakSearch, "search", search), mock.patch.object(sweeper, "SWEEP_S", 1.0):
            yield

    return planted()


@_bug(
    "nodes are freed while their request is there",
    "what was given stays given", "a node is freed by who works for its request", "what was given can be taken",
)  # fmt: skip
def _free_too_early() -> AbstractContextManager[Any]:
    def is_orphaned(_self: AbandonedNodes, node: Any) -> bool:
        return node.state is NodeState.READY and bool(node.allocated_to)

    async def deallocate(self: AbandonedNodes, node_id: Any) -> None:
        seen = self._ctx.view.nodes.get(node_id)
        if seen is not None:
            await nodelocks.rewrite_node(self._ctx.store, seen, seen.record.deallocated())

    @contextmanager
    def planted() -> Iterator[None]:
        with (
            mock.patch.object(AbandonedNodes, "is_orphaned", is_orphaned),
            mock.patch.object(AbandonedNodes, "deallocate", deallocate),
        ):
            yield

    return planted()


@_bug("a refusal for lack of quota counts as a failed launch", "nothing is declined without a reason")
def _quota_fails() -> AbstractContextManager[Any]:
    async def fail(self: Slots, slot: int, number: int, attempt: Attempt) -> m.Event:
        try:
            return await attempt_(self, slot, number, attempt)
        except QuotaExceededError as error:
            await self._give_up(slot, NodeState.FAILED)
            return m.NodeFailed(slot, str(error), is_final=True)

    attempt_ = Slots._attempt
    return mock.patch.object(Slots, "_attempt", fail)


@_bug("one decline fails the request", "a request fails when all pools declined")
def _fails_at_once() -> AbstractContextManager[Any]:
    def after(request: NodeRequest, pool_ids: Any, _registered: Any, now: float, _absent: Any) -> NodeRequest:
        return request.into(RequestState.FAILED, now, declined_by=(*request.declined_by, *pool_ids), nodes=())

    return mock.patch.object(handler, "after_decline", after)


@_bug(
    "nobody resets lost requests",
    "every request is answered", "nothing goes on for ever",  # idle nodes grow old and are replaced meanwhile
)  # fmt: skip
def _lost_stay_lost() -> AbstractContextManager[Any]:
    async def nothing(*_: Any) -> None:
        await asyncio.sleep(60.0)

    return mock.patch.object(LostRequests, "reset", nothing)


@_bug("leaks are not looked for", "all comes to rest", "every request is answered")
@contextmanager
def _leaks_stay() -> Iterator[None]:
    """Leave leaked instances, on a cloud that cannot refuse late calls: with refusals, no instance leaks."""

    async def nothing(*_: Any) -> None:
        pass

    with (
        mock.patch.object(LeakSearch, "search", nothing),
        mock.patch.object(FakeCloud, "_refuse_if_stale", return_value=None),
    ):
        yield


@_bug("the record goes before the server", "a record goes after its server")
def _record_first() -> AbstractContextManager[Any]:
    async def nothing(*_: Any) -> bool:
        return True

    return mock.patch.object(deletion, "_delete_instances", nothing)


@_bug("nodes come in another order", "nodes come in the order of labels")
def _other_order() -> AbstractContextManager[Any]:
    held = m.State.held.fget
    assert held is not None
    return mock.patch.object(m.State, "held", property(lambda self: tuple(sorted(held(self), reverse=True))))


@_bug("paused pools are asked like others", "what is paused takes no request", first_seed=PAUSED_FROM)
def _forget_pauses() -> AbstractContextManager[Any]:
    return mock.patch.object(Pool, "pauses", ())
