"""Carries one node request through the request machine: performs the machine's effects, and feeds it events.

No other module touches both the machine and the outside. Consecutive store effects are sent as one transaction.
decisions/machine.py decides what follows from an event; engine/launch/slots.py has the request's nodes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from nodelaunch.decisions import machine as m
from nodelaunch.decisions.triage import Absentee, after_decline
from nodelaunch.engine.launch.slots import CapacityWait, Slots
from nodelaunch.engine.limits.reservations import Reservation
from nodelaunch.engine.nodelocks import HeldNode, PoolContext
from nodelaunch.engine.provider.runtime import Generation
from nodelaunch.engine.view import Versioned
from nodelaunch.errors import (
    InvalidTransitionError,
    LockBusyError,
    NotEmptyError,
    RecordGoneError,
    RecordInvalidError,
    SessionLostError,
    StoreError,
    VersionConflictError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.events import RequestEnded
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import REQUEST_FINAL, RequestState
from nodelaunch.protocol.store import Delete, Entry, Lock, Op, Put, ReleaseLock, TakeLock, Unsubscribe
from nodelaunch.protocol.verdicts import Accept, Decline, HandlerFailed

log: Logger = get_logger(__name__)

CLOSING_TIMEOUT_S = 30.0
"""Seconds within which locks have to be released when a handler is interrupted."""
MAX_CONFLICTS = 5
"""Number of times that a request which others change under this launcher's lock is read again before it is given up."""
_WRITTEN = frozenset({m.LockRequest, m.Save, m.HandOver, m.ReleaseNodes, m.UnlockRequest})
"""Effects that are written to the store."""


class RequestHandler:
    """Handles an accepted or declined request. Create it, `run` it, and `post` events about the request meanwhile."""

    def __init__(
        self,
        ctx: PoolContext,
        seen: Versioned[NodeRequest],
        verdict: Accept | Decline,
        reservation: Reservation,
        await_capacity: CapacityWait,
        absent: Callable[[], Sequence[Absentee]],
        declining: Sequence[str] = (),
    ) -> None:
        """*declining*: ids of the pools that decline the request together; by default, this one."""
        self.request: NodeRequest = seen.record
        self.state: m.State | None = None
        """The state of the machine, as of now; None before `run`."""
        self._ctx = ctx
        self._version = seen.version
        self._created_at = seen.created_at
        self._verdict = verdict
        self._reservation = reservation
        self._absent = absent
        self._declining = declining or (ctx.pool_id,)
        self._lock: Lock | None = None
        self._stop_watching: Unsubscribe | None = None
        self._events: deque[m.Event] = deque()
        self._awaited: asyncio.Future[None] | None = None
        """Set while the handler waits for an event."""
        zone = verdict.zone if isinstance(verdict, Accept) else None
        self._slots = Slots(
            ctx, seen.record, reservation, await_capacity, self.post, reused_zone=zone, asked_at=seen.created_at
        )
        self._log = log.bind(
            provider=ctx.provider.name, pool=ctx.pool.name, request_id=seen.record.id, event_id=seen.record.event_id
        )

    @property
    def generation(self) -> Generation:
        """The configuration and driver of the provider that the handler uses to its end."""
        return self._ctx.generation

    @property
    def waits(self) -> dict[int, str]:
        """Reasons why launches wait, by slot."""
        return self._slots.waits

    @property
    def only_waits(self) -> bool:
        """True if all missing nodes wait for capacity and none is being launched."""
        found = {slot.state for slot in self.state.slots} if self.state is not None else set()
        return m.SlotState.WAITING in found and found <= {m.SlotState.WAITING, m.SlotState.READY}

    def post(self, event: m.Event) -> None:
        """Pass *event* to the machine."""
        self._events.append(event)
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def run(self) -> m.Outcome:
        """Work until the request is finished or given up. Return the outcome. No lock of this launcher is ever left
        behind."""
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
                await self._slots.give_up_early()
        except BaseExceptionGroup as group_error:
            await self._break_off()
            raise group_error.exceptions[0] from None
        except BaseException:
            await self._break_off()
            raise
        finally:
            self._forget()
        outcome = state.outcome or m.Outcome.LOCK_REFUSED
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
        return m.step(state, event, retries=retries, can_launch=self._ctx.generation.inventory is None)

    def _report(self, outcome: m.Outcome, state: m.State, took_s: float) -> None:
        if outcome is m.Outcome.LOCK_REFUSED:
            self._log.debug("request_refused")
            return
        is_routine = outcome is m.Outcome.DECLINED and self.request.requestor == paths.MIN_READY_REQUESTOR
        write = self._log.debug if is_routine else self._log.info  # minready.py logs it, once
        write(
            "request_" + outcome.name.lower(),
            labels=list(self.request.node_types),
            nodes=list(state.held),
            reasons=[str(reason) for reason in (state.reasons or getattr(self._verdict, "reasons", ()))] or None,
            took_s=round(took_s, 3),
        )
        self._log_outcome(outcome, state, took_s)

    def _log_outcome(self, outcome: m.Outcome, state: m.State, took_s: float) -> None:
        events, request = self._ctx.provider.events, self.request
        if events.wants(RequestEnded):
            reasons = state.reasons or getattr(self._verdict, "reasons", ())
            at = events.now()
            events.emit(
                RequestEnded(
                    at, request.id, self._ctx.provider.name, self._ctx.pool.name, outcome.name.lower(),
                    request.node_types, tuple(state.held), tuple(reasons), request.requestor, request.event_id,
                    took_s, max(0.0, at - self._created_at),
                )
            )  # fmt: skip

    def _forget(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        self._reservation.close()
        self._slots.close()

    async def _break_off(self) -> None:
        """Release every lock and write nothing more: the sweeper repairs the remains."""
        await self._release_locks(self._slots.break_off())

    async def _release_locks(self, nodes: Iterable[HeldNode]) -> None:
        """Release the locks of *nodes* and of the request, as far as this launcher still holds them."""
        locks = [held.lock for held in nodes]
        if self._lock is not None:
            locks.append(self._lock)
            self._lock = None
        try:
            async with asyncio.timeout(CLOSING_TIMEOUT_S):
                for lock in locks:
                    await lock.release()
        except (StoreError, TimeoutError) as error:
            self._log.warning("locks_left_behind", detail=str(error))

    # -- performing -------------------------------------------------------------------------------------------------

    async def _perform(self, effects: tuple[m.Effect, ...], group: asyncio.TaskGroup) -> None:
        """Perform *effects* in order; consecutive store effects in one transaction."""
        together: list[m.Effect] = []
        for effect in effects:
            if type(effect) in _WRITTEN:
                together.append(effect)
                continue
            match effect:
                case m.Launch(slot, attempt):
                    self._slots.launch(group, slot, attempt)
                case m.ClaimNode(slot, node_id):
                    self._slots.claim(group, slot, node_id)
                case m.AwaitQuota(slot):
                    self._slots.await_capacity(group, slot)
                case m.CancelLaunches():
                    await self._slots.cancel()
                case m.Abandon():
                    held, self._slots.held = self._slots.held, {}
                    await self._release_locks(held.values())
        if together:
            await self._commit(together)

    async def _commit(self, effects: list[m.Effect]) -> None:
        is_opening = isinstance(effects[0], m.LockRequest)
        if is_opening and isinstance(self._verdict, Accept):
            self._slots.make_early(self._verdict)  # their tasks start once this one waits
        try:
            results = await self._send(effects)
        except StoreError as error:
            event = self._what_went_wrong(error, is_opening=is_opening)
            if isinstance(event, m.NodesLost):
                for held in self._slots.let_go(event.node_ids):
                    await held.lock.release()
            self.post(event)
            return
        if is_opening:
            self._opened(results)
            self.post(m.LockGranted())
        else:
            self._closed(effects)

    async def _send(self, effects: Sequence[m.Effect]) -> list[Entry | Lock | None]:
        """Write *effects* to the store. Raises: StoreError.

        The directory of a lock with contenders stays. A request that changed although this launcher has it locked is
        read again: the changes are kept, except in the fields that only the launcher may write.
        """
        path = paths.request(self.request.id)
        under = (self._lock,) if self._lock is not None else ()
        for _ in range(MAX_CONFLICTS):
            before = self.request
            ops = [op for effect in effects for op in self._ops(effect)]
            try:
                return await self._ctx.store.commit(ops, under=under)
            except NotEmptyError as error:
                return await self._ctx.store.commit([op for op in ops if op != Delete(error.path)], under=under)
            except VersionConflictError as error:
                if not under or error.path != path:
                    raise
                await self._read_again(before)
        raise VersionConflictError(path, "other clients change it all the time")

    async def _read_again(self, before: NodeRequest) -> None:
        """Read the request as another process wrote it, and keep the state that was last written here. Raises:
        StoreError."""
        entry = await self._ctx.store.get(paths.request(before.id))
        self._log.warning("locked_request_changed")
        self._version = entry.stat.version
        try:
            changed = NodeRequest.from_bytes(entry.path, entry.data, request_id=before.id)
        except RecordInvalidError as error:
            raise RecordGoneError(entry.path, str(error)) from None  # the request does not exist any more
        self.request = changed.changed(
            state=before.state, node_types=before.node_types, nodes=before.nodes, declined_by=before.declined_by
        )

    def _ops(self, effect: m.Effect) -> list[Op]:
        match effect:
            case m.LockRequest():
                return [TakeLock(paths.request_lock(self.request.id))]
            case m.Save():
                self.request = self._as_saved(effect)
                return [Put(paths.request(self.request.id), self.request.to_bytes(), self._version, self.request)]
            case m.HandOver(node_ids):
                return [op for held in self._slots.nodes(node_ids) for op in held.hand_over_ops()]
            case m.ReleaseNodes(node_ids):
                return [op for held in self._slots.nodes(node_ids) for op in held.give_back_ops()]
            case m.UnlockRequest():
                assert self._lock is not None  # noqa: S101
                lock = self._lock
                return [ReleaseLock(lock), Delete(lock.path)] if self._leaves_no_contender() else [ReleaseLock(lock)]
            case _:
                raise AssertionError(effect)

    def _leaves_no_contender(self) -> bool:
        """True if the lock's directory is deleted with the lock: a contending Nodepool launcher would log an error."""
        return self.request.state in REQUEST_FINAL and self._ctx.is_alone

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
            if type(effect) is m.HandOver or type(effect) is m.ReleaseNodes:
                self._slots.let_go(effect.node_ids)
            elif type(effect) is m.UnlockRequest:
                self._lock = None
                self.post(m.Closed())

    def _what_went_wrong(self, error: StoreError, *, is_opening: bool) -> m.Event:
        """Return the event for a failed transaction."""
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


def handler_failed(error: BaseException) -> HandlerFailed:
    """Return the reason to decline a request whose handler failed with *error*."""
    detail = str(error) if isinstance(error, InvalidTransitionError) else f"{type(error).__name__}: {error}"
    return HandlerFailed(detail)
