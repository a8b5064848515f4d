"""One provider-pool: registers itself, looks at the requests when something changed, hands the accepted to handlers.

There is no polling: a change of the view, of the provider or of a reservation wakes the pool, and one synchronous pass
decides on all open requests at once. What does *not* belong here: the decision itself (protocol/triage.py) and how it
is carried out (handler.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from nodelaunch.engine.handler import RequestHandler, handler_failed
from nodelaunch.engine.launch import PoolContext, discard_node
from nodelaunch.engine.reservations import Reservation
from nodelaunch.engine.view import (
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    Note,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
)
from nodelaunch.errors import LockLostError, RecordGoneError, SessionLostError, StoreError, VersionConflictError
from nodelaunch.protocol import machine as m
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import SupportsInventory
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import INSTANCES, NOTHING, Limits, Usage
from nodelaunch.protocol.records import NodeRequest, PoolRegistration
from nodelaunch.protocol.states import ComponentState, NodeState, RequestState
from nodelaunch.protocol.store import Entry, SessionState
from nodelaunch.protocol.triage import (
    Accept,
    Decline,
    Defer,
    HandlerFailed,
    IdleNode,
    Peer,
    PoolView,
    Tenant,
    Verdict,
    make_room,
    triage,
)

log = structlog.get_logger(__name__)

ON_THE_WAY_OUT = frozenset({NodeState.USED, NodeState.DELETING, NodeState.DELETED, NodeState.FAILED, NodeState.ABORTED})


@dataclass(eq=False, slots=True)
class _Waiter:
    """A slot of an accepted request that waits for room."""

    request: NodeRequest
    slot: int
    need: Usage
    reservation: Reservation
    granted: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """What the pool tells its peers about the process it is in."""

    hostname: str
    version: str


@dataclass(eq=False, slots=True)
class _Handling:
    handler: RequestHandler
    planned: frozenset[NodeId] = field(default_factory=frozenset)
    """Idle nodes the handler means to claim."""


class Pool:
    """The pool coroutine: `run` it; `drain` it before the end."""

    def __init__(
        self,
        ctx: PoolContext,
        identity: PoolIdentity,
        tenants: Mapping[str, Limits],
        *,
        may_decline: Callable[[], bool] = lambda: True,
    ) -> None:
        """*may_decline*: whether all pools that are about to register have done so. Before, one that does not offer a
        label can't know that nobody does."""
        self.ctx = ctx
        self._may_decline = may_decline
        self.verdicts: dict[RequestId, Verdict] = {}
        """What was last decided on each open request, with its reasons."""
        self._identity = identity
        self._tenants = tenants
        self._wake = asyncio.Event()
        self._handling: dict[RequestId, _Handling] = {}
        self._waiters: list[_Waiter] = []
        self._evicting: dict[NodeId, Usage] = {}
        self._broken: dict[RequestId, HandlerFailed] = {}
        self._touched: Counter[RequestId] = Counter()
        self._stuck: dict[RequestId, int] = {}
        self._registration: Entry | None = None
        self._draining = False
        self._all_done = asyncio.Event()
        self._log = log.bind(provider=ctx.provider.name, pool=ctx.pool.name)

    @property
    def is_registered(self) -> bool:
        """Whether the pool's registration is in our view of the registry: then peers and clients can see it, and that
        view is current enough to conclude from it that nobody else may serve a request."""
        return self._registration is not None and self._registration.path in self.ctx.view.pools

    def wake(self) -> None:
        """Look at the requests again."""
        self._wake.set()

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve, session after session, until cancelled or drained."""
        unsubscribe = [
            self.ctx.view.subscribe(self._on_note),
            self.ctx.store.session.subscribe(lambda _state: self._wake.set()),
        ]
        self.ctx.provider.listeners.append(self._wake.set)
        self.ctx.reservations.listeners.append(self._wake.set)
        try:
            while not self._draining:
                await self.ctx.store.session.connected()
                async with asyncio.TaskGroup() as group:
                    try:
                        await self._serve_session(group)
                    except SessionLostError:
                        self._log.warning("session_lost", handling=len(self._handling))
                self._registration = None
        finally:
            self.ctx.provider.listeners.remove(self._wake.set)
            self.ctx.reservations.listeners.remove(self._wake.set)
            for stop in unsubscribe:
                stop()

    async def drain(self, grace_s: float) -> None:
        """Take nothing more, let running requests finish for *grace_s*, then hand the rest back. Returns when the
        pool has let go of everything."""
        self._draining = True
        self._wake.set()
        try:
            async with asyncio.timeout(grace_s):
                await self._until_idle()
        except TimeoutError:
            self._log.info("requests_withdrawn", count=len(self._handling))
            for handling in self._handling.values():
                handling.handler.post(m.Withdrawn())
            await self._until_idle()

    async def _until_idle(self) -> None:
        while self._handling:
            self._all_done.clear()
            await self._all_done.wait()

    async def _serve_session(self, group: asyncio.TaskGroup) -> None:
        epoch = self.ctx.store.session.epoch
        await self._register()
        self._wake.set()
        while not self._draining:
            await self._wake.wait()
            self._wake.clear()
            if self.ctx.store.session.epoch != epoch or self.ctx.store.session.state is SessionState.LOST:
                raise SessionLostError
            self._pass(group)
            await self._publish()
        await self._unregister()

    # -- registration -----------------------------------------------------------------------------------------------

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
            paused=self._is_paused,
        )

    @property
    def _is_paused(self) -> bool:
        """Whether somebody waits for room here; tells peers of lower priority that they may step in."""
        deferred = (v for v in self.verdicts.values() if isinstance(v, Defer))
        return bool(self._waiters) or any(verdict.waits_for_room for verdict in deferred)

    async def _register(self) -> None:
        path = f"{paths.POOLS}/{self._identity.hostname}"
        data = self._component().to_bytes()
        self._registration = await self.ctx.store.create(path, data, ephemeral=True, sequence=True, parents=True)
        self._log.info("pool_registered", pool_id=self.ctx.pool_id)

    async def _publish(self) -> None:
        """Tell peers what changed about us, if anything did."""
        before, data = self._registration, self._component().to_bytes()
        if before is None or before.data == data:
            return
        try:
            self._registration = await self.ctx.store.put(before.path, data, version=before.stat.version)
        except (RecordGoneError, VersionConflictError):
            self._log.warning("registration_lost", path=before.path)
            await self._register()

    async def _unregister(self) -> None:
        if self._registration is not None:
            try:
                await self.ctx.store.delete(self._registration.path)
            except StoreError as error:
                self._log.info("unregister_failed", detail=str(error))
            self._registration = None

    # -- being woken ------------------------------------------------------------------------------------------------

    def _on_note(self, note: Note) -> None:
        match note:
            case RequestSeen(request_id) | RequestUnlocked(request_id):
                self._touched[request_id] += 1
            case RequestRemoved(request_id):
                self._forget(request_id)
            case NodeSeen(node_id, _) | NodeUnlocked(node_id):
                seen = self.ctx.view.nodes.get(node_id)
                if seen is None or seen.record.provider != self.ctx.provider.name:
                    return
            case NodeRemoved(_, node) if node.provider != self.ctx.provider.name:
                return
        self._wake.set()

    def _forget(self, request_id: RequestId) -> None:
        if request_id in self._handling:
            self._handling[request_id].handler.post(m.RequestGone())
        for known in (self.verdicts, self._broken, self._touched, self._stuck):
            known.pop(request_id, None)

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _pass(self, group: asyncio.TaskGroup) -> None:
        """Decide on every open request, all at once and without waiting for anything."""
        if not self.ctx.view.is_warm or not self.is_registered:
            return
        self._grant_room()
        open_requests = self._open_requests()
        self.verdicts = {}
        if not open_requests:
            return
        starved: Usage | None = None
        for request, decided in triage(open_requests, self._view()):
            verdict: Verdict = decided
            if request.id in self._broken:
                verdict = Decline((self._broken[request.id],))
            self.verdicts[request.id] = verdict
            if isinstance(verdict, Defer):
                if starved is None and verdict.waits_for_room:
                    starved = verdict.need
            elif isinstance(verdict, Accept) or self._may_decline():
                self._start(group, request, verdict)
        if starved is not None:
            self._make_room(group, starved)

    def _open_requests(self) -> list[NodeRequest]:
        return [
            seen.record
            for request_id, seen in self.ctx.view.requests.items()
            if seen.record.state is RequestState.REQUESTED
            and request_id not in self._handling
            and self._stuck.get(request_id) != self._touched[request_id]
        ]

    def _view(self) -> PoolView:
        provider, pool = self.ctx.provider, self.ctx.pool
        limit = provider.config.max_concurrency
        launching = provider.running_launches + self.ctx.reservations.launches_of(provider.name)
        return PoolView(
            pool_id=self.ctx.pool_id,
            provider=provider.name,
            priority=provider.config.pool_priority(pool),
            labels=provider.label_views(pool),
            peers=self._peers(),
            is_enabled=pool.max_servers is None or pool.max_servers > 0,
            can_launch=provider.can_launch,
            ceiling=self._ceiling(),
            room=self._room_for_new(),
            idle=self._idle(),
            machines=self._machines(),
            tenants={name: self._tenant(name, limits) for name, limits in self._tenants.items()},
            launches_left=None if limit < 0 else limit - launching,
            max_concurrency=limit,
            down=provider.down,
        )

    def _peers(self) -> list[Peer]:
        return [
            Peer(r.id or "", r.provider_name or "", r.priority, r.paused, frozenset(r.supported_labels))
            for r in (seen.record for seen in self.ctx.view.pools.values())
        ]

    def _ceiling(self) -> Limits:
        limits = self.ctx.pool.limits()
        if self.ctx.pool.ignores_provider_quota:
            return limits
        return limits.tightest(self.ctx.provider.limits.minus(self.ctx.provider.unmanaged))

    def _room(self) -> Limits:
        """What provider and pool can give now, with all that is recorded or reserved taken off."""
        view, booked = self.ctx.view, self.ctx.reservations
        provider, pool = self.ctx.provider.name, self.ctx.pool.name
        if self.ctx.provider.is_refused:
            return Limits({INSTANCES: 0})
        room = self.ctx.pool.limits().minus(view.used(provider, pool) + booked.of_pool(provider, pool))
        if self.ctx.pool.ignores_provider_quota:
            return room
        runtime = self.ctx.provider
        taken = runtime.unmanaged + view.used(provider) + booked.of_provider(provider)
        return room.tightest(runtime.limits.minus(taken))

    def _room_for_new(self) -> Limits:
        """What is left for requests not accepted yet: accepted ones that wait come first."""
        return self._room().minus(Usage.total(waiter.need for waiter in self._waiters))

    def _idle(self) -> list[IdleNode]:
        planned = {node_id for handling in self._handling.values() for node_id in handling.planned}
        return [
            IdleNode(node.id, frozenset(node.type), node.usage or NOTHING, node.state_time)
            for node in (seen.record for seen in self.ctx.view.nodes_of(self.ctx.provider.name))
            if node.is_idle
            and node.pool == self.ctx.pool.name
            and node.id not in planned
            and node.id not in self._evicting
            and not self.ctx.view.is_node_locked(node.id)
        ]

    def _machines(self) -> list[frozenset[str]]:
        driver = self.ctx.provider.driver
        if not isinstance(driver, SupportsInventory):
            return []
        return [frozenset(machine.labels) for machine in driver.machines() if machine.pool == self.ctx.pool.name]

    def _tenant(self, name: str, limits: Limits) -> Tenant:
        used = self.ctx.view.used_by_tenant(name) + self.ctx.reservations.of_tenant(name)
        return Tenant(limits, limits.minus(used))

    # -- acting -----------------------------------------------------------------------------------------------------

    def _start(self, group: asyncio.TaskGroup, request: NodeRequest, verdict: Accept | Decline) -> None:
        reservation = self._reserve(request, verdict)
        seen = self.ctx.view.requests[request.id]
        handler = RequestHandler(self.ctx, seen, verdict, reservation, self._await_room)
        planned = frozenset(node_id for node_id in verdict.reuse if node_id) if isinstance(verdict, Accept) else ()
        self._handling[request.id] = _Handling(handler, frozenset(planned))
        group.create_task(self._handle(handler, self._touched[request.id]), name=f"request {request.id}")

    def _reserve(self, request: NodeRequest, verdict: Accept | Decline) -> Reservation:
        needs: dict[int, Usage] = {}
        launches: dict[int, Usage] = {}
        if isinstance(verdict, Accept):
            needs = {i: self._need(label) for i, label in enumerate(request.node_types)}
            launches = {i: needs[i] for i, node_id in enumerate(verdict.reuse) if node_id is None}
        provider, pool = self.ctx.provider.name, self.ctx.pool.name
        return self.ctx.reservations.open(provider, pool, request.tenant_name, launches, needs)

    def _need(self, label: str) -> Usage:
        return self.ctx.provider.need(self.ctx.pool.name, label)

    async def _handle(self, handler: RequestHandler, touched: int) -> None:
        """Run one handler; a fault in it is logged, costs this request its place here, and nobody else anything."""
        request_id = handler.request.id
        try:
            outcome = await handler.run()
            if outcome is m.Outcome.REFUSED and self._touched[request_id] == touched:
                self._stuck[request_id] = touched  # look again when something happens to it
        except LockLostError:
            self._log.warning("request_lock_lost", request_id=request_id)
        except Exception as error:  # noqa: BLE001  the top of a handler task
            self._log.exception("handler_failed", request_id=request_id)
            self._broken[request_id] = handler_failed(error)
        finally:
            del self._handling[request_id]
            self._all_done.set()
            self._wake.set()

    async def _await_room(self, request: NodeRequest, slot: int, label: str, reservation: Reservation) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(request, slot, self._need(label), reservation, future)
        self._waiters.append(waiter)
        self._wake.set()
        try:
            await waiter.granted
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _grant_room(self) -> None:
        """Give what room there is to accepted requests that wait for it, in the order of requests."""
        for waiter in sorted(self._waiters, key=lambda w: (w.request.order, w.slot)):
            if waiter.granted.done() or not self._room().allows(waiter.need):
                return
            waiter.reservation.add(waiter.slot, waiter.need)
            self._waiters.remove(waiter)
            waiter.granted.set_result(None)

    def _make_room(self, group: asyncio.TaskGroup, need: Usage) -> None:
        """Let idle nodes go when a request waits for what they take, no more of them than that takes."""
        if not self.ctx.provider.can_launch or self.ctx.provider.is_refused:
            return
        going = Usage.total(self._going())
        for node_id in make_room(need, self._room(), going, self._idle()):
            seen = self.ctx.view.nodes[node_id]
            self._evicting[node_id] = seen.record.usage or NOTHING
            group.create_task(self._evict(node_id), name=f"evict {node_id}")

    def _going(self) -> Iterable[Usage]:
        """What nodes that are being deleted, or soon will be, give back."""
        for seen in self.ctx.view.nodes_of(self.ctx.provider.name):
            node = seen.record
            if node.pool == self.ctx.pool.name and node.state in ON_THE_WAY_OUT:
                yield node.usage or NOTHING
            elif node.id in self._evicting:
                yield self._evicting[node.id]

    async def _evict(self, node_id: NodeId) -> None:
        try:
            seen = self.ctx.view.nodes.get(node_id)
            if seen is not None and await discard_node(self.ctx.store, self.ctx.view, seen, self.ctx.clock):
                self._log.info("idle_node_evicted", node_id=node_id)
        except StoreError as error:
            self._log.info("evict_failed", node_id=node_id, detail=str(error))
        finally:
            del self._evicting[node_id]
            self._wake.set()
