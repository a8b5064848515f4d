"""A pool of a provider: keeps itself registered, and runs the handlers of the requests that the scheduler gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nodelaunch.config.models import PoolConfig
from nodelaunch.decisions import machine as m
from nodelaunch.decisions.triage import Absentee, PoolKey
from nodelaunch.engine.limits.reservations import Reservation
from nodelaunch.engine.nodelocks import PoolContext
from nodelaunch.engine.serve.handler import RequestHandler, handler_failed
from nodelaunch.engine.view import Versioned
from nodelaunch.errors import LockLostError, RecordGoneError, SessionLostError, StoreError, VersionConflictError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.pauses import Pause
from nodelaunch.protocol.records import NodeRequest, PoolRegistration
from nodelaunch.protocol.states import ComponentState
from nodelaunch.protocol.store import Entry, SessionState
from nodelaunch.protocol.verdicts import Accept, Decline

if TYPE_CHECKING:
    from nodelaunch.engine.serve.scheduler import Scheduler

log: Logger = get_logger(__name__)

LOST_PAUSE_S = 1.0
"""Seconds until the next try, if the store reports a session lost that still counts as connected."""

OnEnded = Callable[[RequestId, m.Outcome | None, m.State | None, object], None]
"""Called when the work on a request ends; without an outcome, the last argument is the error."""


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """The data about its process that the pool reports to its peers."""

    hostname: str
    version: str
    id: str = ""
    """The id under which the process is present."""


class Pool:
    """The pool coroutine: `run` it; `drain` it before the end."""

    def __init__(
        self,
        ctx: PoolContext,
        identity: PoolIdentity,
        scheduler: Scheduler,
        *,
        absent: Callable[[], Sequence[Absentee]] = tuple,
    ) -> None:
        """*absent*: the pools that are away and may return."""
        self.ctx: PoolContext = ctx
        self.key: PoolKey = (ctx.provider.name, ctx.pool.name)
        self.handlers: dict[RequestId, RequestHandler] = {}
        """Handlers of the requests that this pool works on."""
        self._scheduler = scheduler
        self._absent = absent
        self._identity = identity
        self._wake = asyncio.Event()
        self._is_paused = False
        self._registration: Entry | None = None
        self._was_seen = False
        """True if the registration was in this launcher's view of the registry."""
        self._group: asyncio.TaskGroup | None = None
        """The task group of the present session."""
        self._draining = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._idle = asyncio.Event()
        self._log = log.bind(provider=ctx.provider.name, pool=ctx.pool.name)

    @property
    def is_registered(self) -> bool:
        """True if the pool's registration is in this launcher's view of the registry. Then peers and clients can see
        it, and the view is current enough to conclude that no other pool can serve a request."""
        return self._registration is not None and self._registration.path in self.ctx.view.pools

    @property
    def may_start(self) -> bool:
        """True if the pool can be given requests: not before its peers can know that it shares capacity with them."""
        registration = self._registration
        return (
            self._group is not None
            and not self._draining
            and registration is not None
            and self.is_registered
            and self.ctx.view.is_of_known_process(registration.path)
        )

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """The pauses by which an operator has paused the pool."""
        return self.ctx.view.pauses_of(*self.key, self._identity.hostname, self._identity.id)

    def renew(self, pool: PoolConfig) -> None:
        """Continue with another configuration; requests that are being served end under the old one."""
        self.ctx = replace(self.ctx, generation=self.ctx.provider.current, pool=pool)
        self._scheduler.renewed(self)
        self._wake.set()

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve, session after session, until cancelled or drained."""
        unsubscribe = self.ctx.store.session.subscribe(lambda _state: self._wake.set())
        provider = self.ctx.provider
        provider.listeners.append(self._provider_changed)
        hosts = provider.breakers.hosts
        if hosts is not None:
            hosts.listeners.append(self._nodes_shown)
        self._ended.clear()
        self._scheduler.add(self)
        try:
            while not self._draining:
                epoch = await self.ctx.store.session.connected()
                await self._serve_session()
                await self._until_seen_lost(epoch)
        finally:
            self._registration = None
            self._ended.set()
            self._scheduler.remove(self)
            provider.awaited.set(self.ctx.pool.name, is_awaited=False)
            provider.listeners.remove(self._provider_changed)
            if hosts is not None:
                hosts.listeners.remove(self._nodes_shown)
            unsubscribe()

    async def _until_seen_lost(self, epoch: int) -> None:
        """Wait a little if a write found session *epoch* lost and the session does not know it yet."""
        session = self.ctx.store.session
        if not self._draining and session.epoch == epoch and session.state is SessionState.CONNECTED:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOST_PAUSE_S):
                    await self._wake.wait()

    async def _serve_session(self) -> None:
        """Serve while the session lasts; return when its work is done."""
        async with asyncio.TaskGroup() as group:
            try:
                await self._stay_registered(group)
            except SessionLostError:
                self._log.warning("session_lost", handling=len(self.handlers))
            finally:
                self._group = None
                self._scheduler.pools_changed()
        self._registration = None

    async def _stay_registered(self, group: asyncio.TaskGroup) -> None:
        session = self.ctx.store.session
        epoch = session.epoch
        await self._register()
        self._group = group
        self._scheduler.pools_changed()
        try:
            while not self._draining:
                await self._publish()
                await self._wake.wait()
                self._wake.clear()
                if session.epoch != epoch or session.state is SessionState.LOST:
                    raise SessionLostError
        except SessionLostError:
            raise
        except Exception:
            await self._unregister()  # peers must not leave requests to this pool meanwhile
            raise
        await self._unregister()

    async def drain(self, grace_s: float) -> None:
        """Accept no more requests, let running ones finish for *grace_s*, then hand back the rest. Return when the pool
        holds no locks and is not registered any more."""
        self._draining = True
        self._wake.set()
        self._scheduler.pools_changed()
        self.withdraw_waiting(is_stopped=True)
        try:
            async with asyncio.timeout(grace_s):
                await self._until_idle()
        except TimeoutError:
            self._log.info("requests_withdrawn", count=len(self.handlers))
            for handler in self.handlers.values():
                handler.post(m.Withdrawn())
            await self._until_idle()
        await self._ended.wait()

    def withdraw_waiting(self, *, is_stopped: bool) -> None:
        """While draining, or paused by an operator (*is_stopped*), hand back at once the requests that only wait for
        capacity."""
        if is_stopped or self._draining:
            for handler in self.handlers.values():
                if handler.only_waits:
                    handler.post(m.Withdrawn())

    async def _until_idle(self) -> None:
        while self.handlers:
            self._idle.clear()
            await self._idle.wait()

    # -- registration -----------------------------------------------------------------------------------------------

    def set_paused(self, is_paused: bool) -> None:
        """Set whether requests wait here for capacity, or for a failing provider. Peers of lower priority are notified
        that they may serve requests."""
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            self._wake.set()

    def _component(self) -> PoolRegistration:
        config = self.ctx.provider.config
        return PoolRegistration(
            hostname=self._identity.hostname,
            state=ComponentState.RUNNING,
            version=self._identity.version,
            id=self.ctx.pool_id,
            name=self.ctx.pool.name,
            provider_name=self.ctx.provider.name,
            supported_labels=tuple(self.ctx.pool.label_names),
            priority=config.pool_priority(self.ctx.pool),
            paused=self._is_paused or config.max_concurrency == 0 or bool(self.pauses),
        )

    def registrations_changed(self) -> None:
        """Check that the registration still exists: an operator may have deleted it."""
        if self.is_registered:
            self._was_seen = True
        elif self._was_seen and self._registration is not None and self.ctx.view.is_synced:
            self._was_seen = False
            self._log.warning("registration_lost", path=self._registration.path)
            self._registration = None
            self._wake.set()

    async def _register(self) -> None:
        self._was_seen = False
        path = f"{paths.POOLS}/{self._identity.hostname}"
        data = self._component().to_bytes()
        self._registration = await self.ctx.store.create(path, data, ephemeral=True, sequence=True, parents=True)
        self._log.info("pool_registered", pool_id=self.ctx.pool_id)

    async def _publish(self) -> None:
        """Write the registration again if it changed."""
        before, data = self._registration, self._component().to_bytes()
        if before is None:
            await self._register()
            self._scheduler.pools_changed()
            return
        if before.data == data:
            return
        try:
            self._registration = await self.ctx.store.put(before.path, data, version=before.stat.version)
        except (RecordGoneError, VersionConflictError):
            self._log.warning("registration_lost", path=before.path)
            await self._register()
            self._scheduler.pools_changed()

    async def _unregister(self) -> None:
        registration, self._registration = self._registration, None
        self._was_seen = False
        if registration is not None:
            try:
                await self.ctx.store.delete(registration.path)
            except StoreError as error:
                self._log.info("unregister_failed", detail=str(error))

    # -- working ----------------------------------------------------------------------------------------------------

    def start(
        self,
        seen: Versioned[NodeRequest],
        verdict: Accept | Decline,
        reservation: Reservation,
        declining: Sequence[str],
        on_ended: OnEnded,
    ) -> None:
        """Work on a request as *verdict* says. *declining*: ids of the pools that decline it together."""
        assert self._group is not None  # noqa: S101
        await_capacity = self._scheduler.await_capacity
        handler = RequestHandler(self.ctx, seen, verdict, reservation, await_capacity, self._absent, declining)
        self.handlers[seen.record.id] = handler
        self._group.create_task(self._handle(handler, on_ended), name=f"request {seen.record.id}")

    def post(self, request_id: RequestId, event: m.Event) -> None:
        """Pass *event* to the handler of a request, if there is one."""
        if request_id in self.handlers:
            self.handlers[request_id].post(event)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run *work* beside the handlers while the session lasts."""
        assert self._group is not None  # noqa: S101
        return self._group.create_task(work, name=name)

    async def _handle(self, handler: RequestHandler, on_ended: OnEnded) -> None:
        """Run one handler. An error in it is logged and ends only this pool's work on this request."""
        request_id = handler.request.id
        outcome: m.Outcome | None = None
        failure: object = None
        try:
            async with self.ctx.provider.using(handler.generation):
                outcome = await handler.run()
        except LockLostError:
            self._log.warning("request_lock_lost", request_id=request_id)
        except Exception as error:  # noqa: BLE001  the top of a handler task
            self._log.exception("handler_failed", request_id=request_id)
            failure = handler_failed(error)
        finally:
            del self.handlers[request_id]
            self._idle.set()
            on_ended(request_id, outcome, handler.state, failure)

    def _provider_changed(self) -> None:
        self._scheduler.provider_changed(self.key)
        self._wake.set()

    def _nodes_shown(self, pool: str) -> None:
        if pool == self.ctx.pool.name:
            self._scheduler.marks.capacity_changed(self.key)
