"""The nodes of one request: each slot is claimed, created and launched by a separate task.

Each task ends with exactly one event of the request machine. If this process is alone, nodes are created while the
request is still being locked: the store does both in the order in which they are sent. serve/handler.py has the record
and lock of the request; node.py has the launch of a node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from nodelaunch.decisions import machine as m
from nodelaunch.engine.launch.attempts import Attempt, Attempts
from nodelaunch.engine.launch.node import create_node, launch_node, resumable, resume_node
from nodelaunch.engine.launch.zones import Zones
from nodelaunch.engine.limits.reservations import Reservation
from nodelaunch.engine.limits.sharing import OvertakenError
from nodelaunch.engine.nodelocks import HeldNode, PoolContext, claim_node, give_up, to_the_end
from nodelaunch.errors import (
    DriverError,
    InsufficientCapacityError,
    LabelUnusableError,
    QuotaExceededError,
    SessionLostError,
    StoreError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.verdicts import Accept

log: Logger = get_logger(__name__)

CapacityWait = Callable[[NodeRequest, int, str, Reservation], Awaitable[None]]
"""Waits until the pool has capacity for one more node (request, slot, label) and has put it into the reservation."""


class Slots:
    """Runs the tasks of a request's slots. *post* is called with the event that ends each task; `Stopped` if it is
    cancelled."""

    def __init__(
        self,
        ctx: PoolContext,
        request: NodeRequest,
        reservation: Reservation,
        await_capacity: CapacityWait,
        post: Callable[[m.Event], None],
        *,
        reused_zone: str | None = None,
        asked_at: float = 0.0,
    ) -> None:
        """*reused_zone*: the availability zone of the claimed nodes; launched nodes have to be in the same zone.
        *asked_at*: when the request was made, in seconds since 1970."""
        self.held: dict[int, HeldNode] = {}
        """The nodes that this launcher holds for the request."""
        self._ctx = ctx
        self._request = request
        self._reservation = reservation
        self._await_capacity = await_capacity
        self._post = post
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._early: dict[int, asyncio.Task[None]] = {}
        """Tasks of nodes that are created before the request machine orders their launch."""
        self._attempts = Attempts(ctx, request, asked_at)
        self._refusals: dict[int, str] = {}
        """The cloud's message when it had no capacity, by the slot that waits since then."""
        resumed = next((node.az for node in resumable(ctx, request)), None)
        may_probe = ctx.launching.retries > 1
        self._zones = Zones(ctx.pool, ctx.provider, reused=reused_zone, resumed=resumed, may_probe=may_probe)

    def close(self) -> None:
        """Drop the listener: it refers to this object, and only the garbage collector could free the cycle."""
        self._post = _nobody

    @property
    def waits(self) -> dict[int, str]:
        """Reasons why launches wait, by slot."""
        away = {slot: held.waits_for for slot, held in self.held.items() if held.waits_for is not None}
        return {**self._refusals, **away}

    def nodes(self, node_ids: Iterable[NodeId]) -> list[HeldNode]:
        """Return the nodes with these ids, all of them held."""
        by_id = {held.id: held for held in self.held.values()}
        return [by_id[node_id] for node_id in node_ids]

    def let_go(self, node_ids: Iterable[NodeId]) -> list[HeldNode]:
        """Stop holding these nodes. Return those of them that were held."""
        return [self.held.pop(slot) for slot in [s for s, held in self.held.items() if held.id in node_ids]]

    # -- tasks ------------------------------------------------------------------------------------------------------

    def claim(self, group: asyncio.TaskGroup, slot: int, node_id: NodeId) -> None:
        """Start the task that ends with `NodeClaimed` or `ClaimLost`."""
        self._start(group, slot, partial(self._claim, slot, node_id))

    def launch(self, group: asyncio.TaskGroup, slot: int, attempt: int) -> None:
        """Start the task that ends with `NodeReady`, `NodeFailed` or `NodeAborted`."""
        self._start(group, slot, partial(self._attempts.run, slot, attempt, self._launch))

    def await_capacity(self, group: asyncio.TaskGroup, slot: int) -> None:
        """Start the task that ends with `QuotaFreed`."""
        self._start(group, slot, partial(self._wait_for_capacity, slot))

    async def cancel(self) -> None:
        """Cancel all tasks; each one still posts its event."""
        await asyncio.sleep(0)  # a task cancelled before its first step would never post one
        for task in self._tasks.values():
            task.cancel()

    def _start(self, group: asyncio.TaskGroup, slot: int, work: Callable[[], Awaitable[m.Event]]) -> None:
        async def answer() -> None:
            try:
                event = await work()
            except asyncio.CancelledError:
                event = m.Stopped(slot)
            del self._tasks[slot]
            self._post(event)

        self._tasks[slot] = group.create_task(answer())

    # -- making nodes early -------------------------------------------------------------------------------------------

    def make_early(self, plan: Accept) -> None:
        """Start to create the nodes that *plan* launches. The store performs earlier operations first."""
        ctx = self._ctx
        if not ctx.is_alone or not ctx.provider.can_launch or resumable(ctx, self._request):
            return
        for slot, node_id in enumerate(plan.reuse):
            if node_id is None and self._reservation.has_capacity_for(slot):
                self._early[slot] = asyncio.ensure_future(self._make(slot))

    async def give_up_early(self) -> None:
        """Give up the nodes that were created for a request that this launcher does not get. If cancelled, the
        remaining nodes are left for `break_off`."""
        while self._early:
            slot, making = next(iter(self._early.items()))
            try:
                await to_the_end(making)
            except (StoreError, DriverError) as error:
                log.info("node_not_made", request_id=self._request.id, slot=slot, detail=str(error))
            del self._early[slot]
            await self._give_up(slot, NodeState.ABORTED)

    def break_off(self) -> list[HeldNode]:
        """Stop creating nodes. Return the held nodes. The sweeper deletes the leftovers of the other nodes."""
        for making in self._early.values():
            making.cancel()
        return list(self.held.values())

    async def _make(self, slot: int) -> None:
        """Create the slot's node. If there is no capacity after all, give up its reservation."""
        label, zone = self._request.node_types[slot], self._zones.pick(slot)
        try:
            self.held[slot] = await create_node(
                self._ctx, self._request, label, zone, partial(self._reservation.settle, slot)
            )
        except OvertakenError:
            self._reservation.settle_capacity(slot)

    # -- claiming and launching ---------------------------------------------------------------------------------------

    async def _claim(self, slot: int, node_id: NodeId) -> m.Event:
        async def claim() -> None:
            held = await claim_node(self._ctx, node_id, self._request)
            if held is not None:
                self.held[slot] = held

        try:
            await to_the_end(claim())
        except asyncio.CancelledError:
            if slot not in self.held:
                raise
        except OvertakenError:
            pass  # the tenant's share is lost: the slot waits for it
        except StoreError as error:
            _store_failed(self._request, error)
        finally:
            self._reservation.settle(slot)
        return m.NodeClaimed(slot, node_id) if slot in self.held else m.ClaimLost(slot)

    async def _wait_for_capacity(self, slot: int) -> m.Event:
        with self._attempts.waiting(slot):
            await self._await_capacity(self._request, slot, self._request.node_types[slot], self._reservation)
        return m.QuotaFreed(slot)

    async def _launch(self, slot: int, number: int, attempt: Attempt) -> m.Event:
        """Run one attempt. A node that is given up loses its record; a failed node keeps it for the next attempt."""
        provider = self._ctx.provider
        provider.running_launches += 1
        try:
            return await self._attempt(slot, number, attempt)
        except asyncio.CancelledError:
            held = self.held.get(slot)
            if held is not None and held.node.state is NodeState.READY:
                return m.NodeReady(slot, held.id)  # the launch finished although it was cancelled
            await self._give_up(slot, NodeState.ABORTED)
            raise
        except QuotaExceededError as error:
            attempt.error = error
            return await self._refused(slot, error)
        except DriverError as error:
            attempt.error = error
            return await self._failed(slot, number, error)
        except StoreError as error:
            attempt.error = error
            _store_failed(self._request, error)
            await self._give_up(slot, NodeState.FAILED)
            return m.NodeFailed(slot, str(error))
        finally:
            provider.running_launches -= 1
            self._reservation.settle_capacity(slot)
            if provider.config.max_concurrency >= 0:
                self._reservation.launch_ended()

    async def _attempt(self, slot: int, number: int, attempt: Attempt) -> m.Event:
        self._refusals.pop(slot, None)
        label = self._request.node_types[slot]
        making = self._early.pop(slot, None)
        if making is not None:
            await to_the_end(making)
        elif slot not in self.held and resumable(self._ctx, self._request):
            await to_the_end(self._resume(slot))
        while slot not in self.held:
            await self._make_in_turn(slot, label)
        held = self.held[slot]
        attempt.has(held)
        zone = held.node.az if held.is_resumed else self._zones.pick(slot)
        is_last = partial(self._is_last, slot)
        began = asyncio.get_running_loop().time()
        await launch_node(self._ctx, held, self._request, label, number, zone, is_last=is_last)
        self._ctx.provider.breakers.launched(self._ctx.pool.name, label, zone, began)
        return m.NodeReady(slot, held.id)

    async def _make_in_turn(self, slot: int, label: str) -> None:
        """Create the slot's node if there is capacity as of now, and no other launcher takes it meanwhile."""
        if not self._reservation.has_capacity_for(slot):
            with self._attempts.waiting(slot):
                await self._await_capacity(self._request, slot, label, self._reservation)
        await to_the_end(self._make(slot))

    async def _resume(self, slot: int) -> None:
        held = await resume_node(self._ctx, self._request, self._request.node_types[slot])
        if held is not None:
            self._zones.keep(slot, held.node.az)
            self.held[slot] = held
            self._reservation.settle(slot)

    def _is_last(self, slot: int) -> bool:
        """Return True if every other node of the request is ready: the node of *slot* fulfils the request."""
        others = [held for index, held in self.held.items() if index != slot]
        is_complete = len(others) + 1 == len(self._request.node_types)
        return is_complete and all(held.node.state is NodeState.READY for held in others)

    async def _refused(self, slot: int, error: QuotaExceededError) -> m.Event:
        ctx = self._ctx
        self._refusals[slot] = str(error)
        log.info(
            "launch_aborted", provider=ctx.provider.name, pool=ctx.pool.name, request_id=self._request.id, slot=slot,
            detail=str(error),
        )  # fmt: skip
        ctx.report(self._request, f"launch of node {slot + 1} postponed because the cloud has no capacity: {error}")
        self._keep_share(slot)
        await self._give_up(slot, NodeState.ABORTED)
        ctx.provider.quota_refused()
        return m.NodeAborted(slot)

    async def _failed(self, slot: int, number: int, error: DriverError) -> m.Event:
        self._ctx.report(self._request, f"launch of node {slot + 1} failed, attempt {number}: {error}")
        label, zone = self._request.node_types[slot], self._zones.picked(slot)
        self._ctx.provider.breakers.launch_failed(self._ctx.pool.name, label, zone, error)
        has_alternative = self._zones.leave(slot, is_alone=not self.held.keys() - {slot})
        is_full = isinstance(error, InsufficientCapacityError) and not has_alternative
        is_final = isinstance(error, LabelUnusableError) or is_full
        held = self.held.get(slot)
        gives_up = is_final or number >= self._ctx.launching.retries
        if not gives_up:
            self._keep_share(slot)
        if gives_up or (held is not None and not held.is_clean):
            await self._give_up(slot, NodeState.FAILED)
        if isinstance(error, LabelUnusableError):
            self._ctx.provider.label_broken(self._ctx.pool.name, label, str(error))
        return m.NodeFailed(slot, str(error), is_final=is_final)

    def _keep_share(self, slot: int) -> None:
        """Keep the tenant's share for the slot's next node while this one is deleted."""
        need = self._ctx.provider.need(self._ctx.pool.name, self._request.node_types[slot])
        self._reservation.keep_share(slot, need)

    async def _give_up(self, slot: int, state: NodeState) -> None:
        held = self.held.pop(slot, None)
        if held is not None:
            await give_up(self._ctx, held, state)


def _nobody(_event: m.Event) -> None:
    """Ignore events after the end."""


def _store_failed(request: NodeRequest, error: StoreError) -> None:
    if not isinstance(error, SessionLostError):
        log.warning("node_write_failed", request_id=request.id, error=type(error).__name__, detail=str(error))
