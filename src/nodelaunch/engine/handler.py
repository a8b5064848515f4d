"""Carries one node request through the request machine: performs its effects, feeds it what happens.

The only place that touches both the machine and the outside. Store effects that stand together go out as one
transaction; tasks run in one group and each answers with exactly one event. What does *not* belong here: what follows
from an event (protocol/machine.py), and a node's own life (engine/launch.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from nodelaunch.engine.holding import HeldNode, PoolContext, claim_node, give_up, to_the_end
from nodelaunch.engine.launch import create_node, launch_node, resumable, resume_node
from nodelaunch.engine.provider import Generation
from nodelaunch.engine.reservations import Reservation
from nodelaunch.engine.view import Seen
from nodelaunch.engine.zones import Zones
from nodelaunch.errors import (
    DriverError,
    InsufficientCapacityError,
    InvalidTransitionError,
    LabelUnusableError,
    LockBusyError,
    NotEmptyError,
    QuotaExceededError,
    RecordGoneError,
    SessionLostError,
    StoreError,
    VersionConflictError,
)
from nodelaunch.protocol import machine as m
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import REQUEST_FINAL, NodeState, RequestState
from nodelaunch.protocol.store import Delete, Entry, Lock, Op, Put, ReleaseLock, TakeLock, Unsubscribe
from nodelaunch.protocol.triage import Absentee, after_decline
from nodelaunch.protocol.verdicts import Accept, Decline, HandlerFailed

log = structlog.get_logger(__name__)

RoomWaiter = Callable[[NodeRequest, int, str, Reservation], Awaitable[None]]
"""Waits until the pool has room for one more node (request, slot, label) and has put it into the reservation."""

CLOSING_TIMEOUT_S = 30.0
"""How long locks may take to be given back when a handler breaks off."""


class RequestHandler:
    """One accepted or declined request. Make it, `run` it, `post` what happens to the request meanwhile."""

    def __init__(
        self,
        ctx: PoolContext,
        seen: Seen[NodeRequest],
        verdict: Accept | Decline,
        reservation: Reservation,
        await_room: RoomWaiter,
        absent: Callable[[], Sequence[Absentee]],
        declining: Sequence[str] = (),
    ) -> None:
        """*declining*: ids of the pools that give the request up together; by default, this one."""
        self.request = seen.record
        self.state: m.State | None = None
        """The machine's, as of now; None before `run`."""
        self._ctx = ctx
        self._version = seen.version
        self._verdict = verdict
        self._reservation = reservation
        self._await_room = await_room
        self._absent = absent
        self._declining = declining or (ctx.pool_id,)
        self._lock: Lock | None = None
        self._stop_watching: Unsubscribe | None = None
        self._held: dict[int, HeldNode] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._events: deque[m.Event] = deque()
        self._awaited: asyncio.Future[None] | None = None
        """Set while there is no event to go on with."""
        self._refusals: dict[int, str] = {}
        """What the cloud said when it had no room, by the slot that waits for some since then."""
        self._zones = Zones(
            ctx.pool, ctx.provider,
            reused=verdict.zone if isinstance(verdict, Accept) else None,
            resumed=next((node.az for node in resumable(ctx, seen.record)), None),
        )  # fmt: skip
        self._log = log.bind(
            provider=ctx.provider.name, pool=ctx.pool.name, request_id=seen.record.id, event_id=seen.record.event_id
        )

    @property
    def generation(self) -> Generation:
        """The provider's configuration and driver it works with to its end."""
        return self._ctx.generation

    @property
    def waits(self) -> dict[int, str]:
        """Why launches stand still, by slot."""
        away = {slot: held.waits_for for slot, held in self._held.items() if held.waits_for is not None}
        return {**self._refusals, **away}

    def post(self, event: m.Event) -> None:
        """Tell the machine that *event* happened."""
        self._events.append(event)
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def run(self) -> m.Outcome:
        """Go on until the request is off our hands; how it ended. Whatever happens, no lock of ours is left behind."""
        started = asyncio.get_running_loop().time()
        state, effects = m.start(self.request, self._verdict)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self.state = state
                    await self._perform(effects, group)
                    if state.is_done:
                        break
                    if not self._events:
                        await self._happening()
                    state, effects = self._step(state, self._events.popleft())
        except BaseExceptionGroup as group_error:
            await self._break_off()
            raise group_error.exceptions[0] from None
        except BaseException:
            await self._break_off()
            raise
        finally:
            self._forget()
        outcome = state.outcome or m.Outcome.REFUSED
        self._report(outcome, state, asyncio.get_running_loop().time() - started)
        return outcome

    async def _happening(self) -> None:
        """Wait for the next event."""
        self._awaited = asyncio.get_running_loop().create_future()
        try:
            await self._awaited
        finally:
            self._awaited = None

    def _step(self, state: m.State, event: m.Event) -> m.Step:
        retries = self._ctx.launching.retries
        return m.step(state, event, retries=retries, can_launch=self._ctx.provider.can_launch)

    def _report(self, outcome: m.Outcome, state: m.State, took_s: float) -> None:
        if outcome is m.Outcome.REFUSED:
            self._log.debug("request_refused")
            return
        self._log.info(
            "request_" + outcome.name.lower(),
            labels=list(self.request.node_types),
            nodes=list(state.held),
            reasons=[str(reason) for reason in (state.reasons or getattr(self._verdict, "reasons", ()))] or None,
            took_s=round(took_s, 3),
        )

    def _forget(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        self._reservation.close()

    async def _break_off(self) -> None:
        """Give every lock back and write nothing more: the sweeper mends what that leaves."""
        locks = [held.lock for held in self._held.values()]
        if self._lock is not None:
            locks.append(self._lock)
        try:
            async with asyncio.timeout(CLOSING_TIMEOUT_S):
                for lock in locks:
                    await lock.release()
        except (StoreError, TimeoutError) as error:
            self._log.warning("locks_left_behind", detail=str(error))

    # -- performing -------------------------------------------------------------------------------------------------

    async def _perform(self, effects: tuple[m.Effect, ...], group: asyncio.TaskGroup) -> None:
        """Perform *effects* in order; store effects that stand together in one transaction."""
        together: list[m.Effect] = []
        for effect in effects:
            match effect:
                case m.Lock() | m.Save() | m.HandOver() | m.Release() | m.Unlock():
                    together.append(effect)
                case m.Claim(slot, node_id):
                    self._start(group, slot, partial(self._claim, slot, node_id))
                case m.Launch(slot, attempt):
                    self._start(group, slot, partial(self._launch, slot, attempt))
                case m.AwaitQuota(slot):
                    self._start(group, slot, partial(self._wait_for_room, slot))
                case m.CancelLaunches():
                    await asyncio.sleep(0)  # a task cancelled before its first step would never answer
                    for task in self._tasks.values():
                        task.cancel()
                case m.Abandon():
                    self._held.clear()
                    self._lock = None
        if together:
            await self._commit(together)

    async def _commit(self, effects: list[m.Effect]) -> None:
        ops: list[Op] = [op for effect in effects for op in self._ops(effect)]
        is_opening = isinstance(effects[0], m.Lock)
        under = (self._lock,) if self._lock is not None else ()
        try:
            results = await self._send(ops, under)
        except StoreError as error:
            event = self._what_went_wrong(error, is_opening=is_opening)
            if isinstance(event, m.NodesLost):
                await self._drop(event.node_ids)
            self.post(event)
            return
        if is_opening:
            self._opened(results)
            self.post(m.LockGranted())
        else:
            self._closed(effects)

    async def _send(self, ops: list[Op], under: Sequence[Lock]) -> list[Entry | Lock | None]:
        """Write *ops*; the directory of a lock that somebody contends for stays. Raises: StoreError."""
        try:
            return await self._ctx.store.commit(ops, under=under)
        except NotEmptyError as error:
            return await self._ctx.store.commit([op for op in ops if op != Delete(error.path)], under=under)

    async def _drop(self, node_ids: tuple[NodeId, ...]) -> None:
        """Let go of nodes that are not ours any more."""
        for slot in [slot for slot, held in self._held.items() if held.id in node_ids]:
            await self._held.pop(slot).lock.release()

    def _ops(self, effect: m.Effect) -> list[Op]:
        match effect:
            case m.Lock():
                return [TakeLock(paths.request_lock(self.request.id))]
            case m.Save():
                self.request = self._as_saved(effect)
                return [Put(paths.request(self.request.id), self.request.to_bytes(), self._version, self.request)]
            case m.HandOver(node_ids):
                return [op for held in self._nodes(node_ids) for op in held.hand_over_ops()]
            case m.Release(node_ids):
                return [op for held in self._nodes(node_ids) for op in held.give_back_ops()]
            case m.Unlock():
                assert self._lock is not None  # noqa: S101
                lock = self._lock
                return [ReleaseLock(lock), Delete(lock.path)] if self._leaves_no_contender() else [ReleaseLock(lock)]
            case _:
                raise AssertionError(effect)

    def _leaves_no_contender(self) -> bool:
        """Whether the lock's directory goes with the lock: a Nodepool that just contends for it would log an error."""
        return self.request.state in REQUEST_FINAL and not self._ctx.view.has_several_launchers

    def _nodes(self, node_ids: tuple[NodeId, ...]) -> list[HeldNode]:
        by_id = {held.id: held for held in self._held.values()}
        return [by_id[node_id] for node_id in node_ids]

    def _as_saved(self, save: m.Save) -> NodeRequest:
        now = self._ctx.clock.now()
        if save.declined:
            registered = [peer.pool_id for peer in self._ctx.view.peers]
            return after_decline(self.request, self._declining, registered, now, self._absent())
        return self.request.into(save.state, now, nodes=save.nodes)

    def _opened(self, results: list[Entry | Lock | None]) -> None:
        lock, entry = results
        assert isinstance(entry, Entry) and lock is not None and not isinstance(lock, Entry)  # noqa: S101, PT018
        self._lock = lock
        self._version = entry.stat.version
        self._stop_watching = lock.on_lost(lambda: self.post(m.LockLost()))
        if self.request.state is RequestState.PENDING:
            self._log.info("request_accepted", labels=list(self.request.node_types))

    def _closed(self, effects: list[m.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, m.HandOver | m.Release):
                for slot in [s for s, held in self._held.items() if held.id in effect.node_ids]:
                    del self._held[slot]
            if isinstance(effect, m.Unlock):
                self._lock = None
                self.post(m.Closed())

    def _what_went_wrong(self, error: StoreError, *, is_opening: bool) -> m.Event:
        """The event a failed transaction amounts to."""
        if is_opening and isinstance(error, LockBusyError | RecordGoneError | VersionConflictError):
            return m.LockRefused()
        node_id = paths.node_id_at(error.path) or paths.node_id_of_contender(error.path)
        if node_id is not None:
            return m.NodesLost((node_id,))
        if isinstance(error, RecordGoneError):
            return m.CloseRefused()
        if not isinstance(error, SessionLostError):
            self._log.warning("request_write_failed", error=type(error).__name__, detail=str(error))
        return m.LockLost()

    # -- tasks ------------------------------------------------------------------------------------------------------

    def _start(self, group: asyncio.TaskGroup, slot: int, work: Callable[[], Awaitable[m.Event]]) -> None:
        """Run *work* for the slot; its event is posted, `Stopped` when it is cancelled by us."""

        async def answer() -> None:
            try:
                event = await work()
            except asyncio.CancelledError:
                event = m.Stopped(slot)
            del self._tasks[slot]
            self.post(event)

        self._tasks[slot] = group.create_task(answer())

    async def _claim(self, slot: int, node_id: NodeId) -> m.Event:
        async def claim() -> None:
            held = await claim_node(self._ctx, node_id, self.request)
            if held is not None:
                self._held[slot] = held

        try:
            await to_the_end(claim())
        except asyncio.CancelledError:
            if slot not in self._held:
                raise
        except StoreError as error:
            self._store_failed(error)
        finally:
            self._reservation.settle(slot)
        return m.NodeClaimed(slot, node_id) if slot in self._held else m.ClaimLost(slot)

    async def _wait_for_room(self, slot: int) -> m.Event:
        await self._await_room(self.request, slot, self.request.node_types[slot], self._reservation)
        return m.QuotaFreed(slot)

    async def _launch(self, slot: int, attempt: int) -> m.Event:
        """One attempt. A node that is given up takes its record with it; a failed one keeps it for the next attempt."""
        provider = self._ctx.provider
        provider.running_launches += 1
        try:
            return await self._attempt(slot, attempt)
        except asyncio.CancelledError:
            held = self._held.get(slot)
            if held is not None and held.node.state is NodeState.READY:
                return m.NodeReady(slot, held.id)  # it came to its end all the same
            await self._give_up(slot, NodeState.ABORTED)
            raise
        except QuotaExceededError as error:
            self._refusals[slot] = str(error)
            self._log.info("launch_aborted", slot=slot, detail=str(error))
            self._ctx.tell(self.request, f"launch of node {slot + 1} put off, the cloud has no room: {error}")
            self._keep_share(slot)
            await self._give_up(slot, NodeState.ABORTED)
            provider.quota_refused()
            return m.NodeAborted(slot)
        except DriverError as error:
            return await self._failed(slot, attempt, error)
        except StoreError as error:
            self._store_failed(error)
            await self._give_up(slot, NodeState.FAILED)
            return m.NodeFailed(slot, str(error))
        finally:
            provider.running_launches -= 1
            self._reservation.settle_room(slot)

    async def _attempt(self, slot: int, attempt: int) -> m.Event:
        self._refusals.pop(slot, None)
        label = self.request.node_types[slot]

        async def resume() -> None:
            held = await resume_node(self._ctx, self.request, label)
            if held is not None:
                self._zones.keep(slot, held.node.az)
                self._held[slot] = held
                self._reservation.settle(slot)

        async def make() -> None:
            self._held[slot] = await create_node(self._ctx, self.request, label, self._zones.pick(slot))
            self._reservation.settle(slot)

        if slot not in self._held and resumable(self._ctx, self.request):
            await to_the_end(resume())
        if slot not in self._held:
            if not self._reservation.has_room_for(slot):  # the attempt before left its node's record behind
                await self._await_room(self.request, slot, label, self._reservation)
            await to_the_end(make())
        held = self._held[slot]
        zone = held.node.az if held.is_resumed else self._zones.pick(slot)
        await launch_node(self._ctx, held, self.request, label, attempt, zone, is_last=partial(self._is_last, slot))
        return m.NodeReady(slot, held.id)

    def _is_last(self, slot: int) -> bool:
        """Whether every other node of the request is ready, so that the request is fulfilled with the one of *slot*."""
        others = [held for index, held in self._held.items() if index != slot]
        is_complete = len(others) + 1 == len(self.request.node_types)
        return is_complete and all(held.node.state is NodeState.READY for held in others)

    async def _failed(self, slot: int, attempt: int, error: DriverError) -> m.Event:
        self._ctx.tell(self.request, f"launch of node {slot + 1} failed, attempt {attempt}: {error}")
        has_alternative = self._zones.leave(slot, is_alone=not self._held.keys() - {slot})
        is_full = isinstance(error, InsufficientCapacityError) and not has_alternative
        is_final = isinstance(error, LabelUnusableError) or is_full
        held = self._held.get(slot)
        gives_up = is_final or attempt >= self._ctx.launching.retries
        if not gives_up:
            self._keep_share(slot)
        if gives_up or (held is not None and not held.is_clean):
            await self._give_up(slot, NodeState.FAILED)
        if isinstance(error, LabelUnusableError):
            self._ctx.provider.label_broken(self._ctx.pool.name, self.request.node_types[slot], str(error))
        return m.NodeFailed(slot, str(error), is_final=is_final)

    def _keep_share(self, slot: int) -> None:
        """Let nobody have the tenant's share of the slot's next node while this one goes."""
        need = self._ctx.provider.need(self._ctx.pool.name, self.request.node_types[slot])
        self._reservation.keep_share(slot, need)

    async def _give_up(self, slot: int, state: NodeState) -> None:
        held = self._held.pop(slot, None)
        if held is not None:
            await give_up(self._ctx, held, state)

    def _store_failed(self, error: StoreError) -> None:
        if not isinstance(error, SessionLostError):
            self._log.warning("node_write_failed", error=type(error).__name__, detail=str(error))


def handler_failed(error: BaseException) -> HandlerFailed:
    """The reason a request is declined for when its handler hit *error*."""
    detail = str(error) if isinstance(error, InvalidTransitionError) else f"{type(error).__name__}: {error}"
    return HandlerFailed(detail)
