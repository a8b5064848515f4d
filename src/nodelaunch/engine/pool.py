"""One provider-pool: registers itself, looks at the requests when something changed, hands the accepted to handlers.

There is no polling: a change of the view, of the provider or of a reservation wakes the pool, and one synchronous pass
decides on all open requests at once. What does *not* belong here: the decision itself (protocol/triage.py) and how it
is carried out (handler.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from nodelaunch.config.models import PoolConfig
from nodelaunch.engine import outlook
from nodelaunch.engine.fates import Fates, Standing
from nodelaunch.engine.handler import RequestHandler, handler_failed
from nodelaunch.engine.holding import PoolContext, discard_node
from nodelaunch.engine.reservations import Reservation
from nodelaunch.engine.view import (
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    Note,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
    ViewWarmed,
)
from nodelaunch.engine.waiting import ROOM_WAIT_S, Waiter, WaitingRoom
from nodelaunch.errors import LockLostError, RecordGoneError, SessionLostError, StoreError, VersionConflictError
from nodelaunch.protocol import machine as m
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.records import Node, NodeRequest, PoolRegistration
from nodelaunch.protocol.states import ComponentState, NodeState, RequestState
from nodelaunch.protocol.store import Entry, SessionState
from nodelaunch.protocol.triage import (
    Absentee,
    IdleNode,
    PoolView,
    Waiting,
    make_room,
    reasons_to_decline,
    triage,
)
from nodelaunch.protocol.verdicts import Accept, Decline, Defer, HandlerFailed, Verdict

log = structlog.get_logger(__name__)

BEFORE_ALL = ("", 0, "")
"""Order of what was accepted already."""
ALARM_SLACK_S = 0.05
"""Added to a deadline by the wall clock, which the loop's timers may run ahead of."""
ON_THE_WAY_OUT = frozenset({NodeState.USED, NodeState.DELETING, NodeState.DELETED, NodeState.FAILED, NodeState.ABORTED})


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
        absent: Callable[[], Sequence[Absentee]] = tuple,
    ) -> None:
        """*may_decline*: whether all pools that are about to register have done so. Before, one that does not offer a
        label can't know that nobody does. *absent*: the pools that are away, and waited for."""
        self.ctx = ctx
        self._may_decline = may_decline
        self._absent = absent
        self.verdicts: dict[RequestId, Verdict] = {}
        """What was last decided on each open request, with its reasons."""
        self.fates = Fates(ctx.clock)
        """What became of each request so far."""
        self.waiting: tuple[Waiting, ...] = ()
        """Requests that wait here for room that the provider's other pools share."""
        self.siblings: Callable[[], Iterable[Pool]] = tuple
        """The provider's other pools in this process."""
        self._identity = identity
        self._tenants = tenants
        self._wake = asyncio.Event()
        self._handling: dict[RequestId, _Handling] = {}
        self._waiting_room = WaitingRoom(self._wake.set, self._hand_back)
        self._evicting: set[NodeId] = set()
        self._looked_at: set[RequestId] = set()
        """Requests that were open when all were last decided on, those declined here among them."""
        self._broken: dict[RequestId, HandlerFailed] = {}
        self._touched: Counter[RequestId] = Counter()
        self._stuck: dict[RequestId, int] = {}
        self._registration: Entry | None = None
        self._look_again: asyncio.TimerHandle | None = None
        self._draining = False
        self._ended = asyncio.Event()
        self._ended.set()
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

    def renew(self, pool: PoolConfig, tenants: Mapping[str, Limits]) -> None:
        """Go on with another configuration; requests that are worked on end under the old one."""
        self.ctx = replace(self.ctx, generation=self.ctx.provider.current, pool=pool)
        self._tenants = tenants
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
        self.ctx.provider.witnesses.append(self._happened)
        self._ended.clear()
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
            self._ended.set()
            self._set_waiting(())
            if self._look_again is not None:
                self._look_again.cancel()
            self.ctx.provider.listeners.remove(self._wake.set)
            self.ctx.reservations.listeners.remove(self._wake.set)
            self.ctx.provider.witnesses.remove(self._happened)
            for stop in unsubscribe:
                stop()

    async def drain(self, grace_s: float) -> None:
        """Take nothing more, let running requests finish for *grace_s*, then hand the rest back. Returns when the
        pool has let go of everything and is not registered any more."""
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
        await self._ended.wait()

    async def _until_idle(self) -> None:
        while self._handling:
            self._all_done.clear()
            await self._all_done.wait()

    async def _serve_session(self, group: asyncio.TaskGroup) -> None:
        epoch = self.ctx.store.session.epoch
        await self._register()
        try:
            while not self._draining:
                self._pass(group)
                await self._publish()
                await self._wake.wait()
                self._wake.clear()
                if self.ctx.store.session.epoch != epoch or self.ctx.store.session.state is SessionState.LOST:
                    raise SessionLostError
        except SessionLostError:
            raise
        except Exception:
            await self._unregister()  # peers must not leave requests to us meanwhile
            raise
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
        """Whether requests wait here for room, or for a provider that fails; tells peers of lower priority that they
        may step in."""
        deferred = (v for v in self.verdicts.values() if isinstance(v, Defer))
        is_full = bool(self._waiting_room.waiters) or any(verdict.waits_for_room for verdict in deferred)
        return is_full or (self.ctx.provider.is_failing and self.ctx.provider.down is not None)

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
                request = self.ctx.view.request(request_id)
                if request is None or request.state is not RequestState.REQUESTED:
                    return
            case RequestRemoved(request_id):
                self._forget(request_id)
            case ViewWarmed():
                for request_id in [each for each in self._handling if each not in self.ctx.view.requests]:
                    self._forget(request_id)
            case NodeSeen(node_id, old):
                if not self._matters(old, self.ctx.view.nodes[node_id].record):
                    return
            case NodeUnlocked(node_id):
                seen = self.ctx.view.nodes.get(node_id)
                if seen is None or not (self._is_ours(seen.record) and seen.record.is_idle):
                    return
            case NodeRemoved(_, node) if not self._is_ours(node):
                return
        self._wake.set()

    def _is_ours(self, node: Node) -> bool:
        """Whether the node takes of our provider's room, or of a tenant's that has limits."""
        return node.provider == self.ctx.provider.name or node.tenant_name in self._tenants

    def _matters(self, old: Node | None, new: Node) -> bool:
        """Whether the change of a node could let a request be served: it is idle now, or takes less than before."""
        if not any(self._is_ours(node) for node in (old, new) if node is not None):
            return False
        if new.is_idle or old is None:
            return new.is_idle
        return old.resources != new.resources or old.tenant_name != new.tenant_name or old.provider != new.provider

    def _forget(self, request_id: RequestId) -> None:
        if request_id in self._handling:
            self._handling[request_id].handler.post(m.RequestGone())
        self.fates.removed(request_id)
        for known in (self.verdicts, self._broken, self._touched, self._stuck):
            known.pop(request_id, None)

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _pass(self, group: asyncio.TaskGroup) -> None:
        """Decide on every open request, all at once and without waiting for anything."""
        if not self.ctx.view.is_warm or not self.is_registered:
            return
        self._waiting_room.grant(partial(outlook.room, self.ctx), self._tenant_allows)
        open_requests = self._open_requests()
        known, self._looked_at = self._looked_at, {request.id for request in open_requests}
        self.verdicts = {}
        view = self._view() if open_requests or self._waiting_room.waiters else None
        if view is not None:
            self._give_up_hopeless(view)
        first = self._waiting_room.first
        starved = first.need if first is not None else None
        for request, decided in triage(open_requests, view) if view else ():
            verdict: Verdict = decided
            if request.id in self._broken:
                verdict = Decline((self._broken[request.id],))
            self.verdicts[request.id] = verdict
            self.fates.decided(request.id, verdict)
            if isinstance(verdict, Defer):
                if starved is None and verdict.waits_for_room:
                    starved = verdict.need
            elif isinstance(verdict, Accept) or self._may_decline():
                self._start(group, request, verdict)
        if starved is not None:
            self._make_room(group, starved)
        self._tell_siblings(has_new=not self._looked_at <= known)
        self._set_alarm()

    def claims(self) -> list[Waiting]:
        """What other pools of the provider have to leave to requests of this one: what waits for the provider's room,
        and what was not looked at yet and may want it."""
        if not (self.is_registered and self.ctx.view.is_warm):
            return []
        offered = set(self.ctx.pool.label_names)
        new = [
            Waiting(request.id, request.order, Usage.total(self._need(label) for label in request.node_types))
            for request in self._open_requests()
            if request.id not in self._looked_at
            and offered.issuperset(request.node_types)
            and self.ctx.pool_id not in request.declined_by
        ]
        return [*self.waiting, *new]

    def _tell_siblings(self, *, has_new: bool) -> None:
        """Other pools of the provider leave alone what is waited for here, and go on with what is not."""
        accepted = [Waiting(waiter.request.id, BEFORE_ALL, waiter.need) for waiter in self._waiting_room.waiters]
        deferred = [
            Waiting(request_id, self.ctx.view.requests[request_id].record.order, verdict.need)
            for request_id, verdict in self.verdicts.items()
            if isinstance(verdict, Defer) and verdict.waits_for_provider
        ]
        self._set_waiting((*accepted, *deferred), has_news=has_new)

    def _set_waiting(self, waiting: tuple[Waiting, ...], *, has_news: bool = False) -> None:
        if has_news or waiting != self.waiting:
            self.waiting = waiting
            self.ctx.provider.room_is_awaited(self.ctx.pool.name, is_awaited=bool(waiting))
            for pool in self.siblings():
                pool.wake()

    def _set_alarm(self) -> None:
        """Be woken when the first deadline of a deferred request passes."""
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        deadlines = [v.until for v in self.verdicts.values() if isinstance(v, Defer) and v.until is not None]
        if deadlines:
            delay = max(0.0, min(deadlines) - self.ctx.clock.now()) + ALARM_SLACK_S
            self._look_again = asyncio.get_running_loop().call_later(delay, self._wake.set)

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
        waited_for = self._waiting_room.need
        shares = not pool.ignores_provider_quota
        return PoolView(
            pool_id=self.ctx.pool_id,
            provider=provider.name,
            priority=provider.config.pool_priority(pool),
            labels=provider.label_views(pool, self.ctx.driver),
            peers=outlook.peers(self.ctx),
            is_enabled=pool.max_servers is None or pool.max_servers > 0,
            can_launch=provider.can_launch,
            ceiling=outlook.ceiling(self.ctx),
            room=outlook.pool_room(self.ctx).minus(waited_for),
            provider_room=outlook.provider_room(self.ctx).minus(waited_for),
            ahead=[waiting for pool in self.siblings() for waiting in pool.claims()] if shares else (),
            idle=self._idle(),
            begun=outlook.begun(self.ctx),
            machines=outlook.machines(self.ctx),
            tenants={name: outlook.tenant(self.ctx, name, limits) for name, limits in self._tenants.items()},
            launching=provider.running_launches + self.ctx.reservations.launches_of(provider.name),
            max_concurrency=provider.config.max_concurrency,
            down=provider.down,
            absent=self._absent(),
            now=self.ctx.clock.now(),
        )

    def _idle(self) -> list[IdleNode]:
        planned = {node_id for handling in self._handling.values() for node_id in handling.planned}
        return outlook.idle_nodes(self.ctx, but_not=planned | self._evicting)

    # -- acting -----------------------------------------------------------------------------------------------------

    def _start(self, group: asyncio.TaskGroup, request: NodeRequest, verdict: Accept | Decline) -> None:
        reservation = self._reserve(request, verdict)
        seen = self.ctx.view.requests[request.id]
        handler = RequestHandler(self.ctx, seen, verdict, reservation, self._await_room, self._absent)
        planned = frozenset(node_id for node_id in verdict.reuse if node_id) if isinstance(verdict, Accept) else ()
        self._handling[request.id] = _Handling(handler, frozenset(planned))
        group.create_task(self._handle(handler, self._touched[request.id]), name=f"request {request.id}")

    def _reserve(self, request: NodeRequest, verdict: Accept | Decline) -> Reservation:
        needs: dict[int, Usage] = {}
        launches: dict[int, Usage] = {}
        if isinstance(verdict, Accept):
            needs = {i: self._need(label) for i, label in enumerate(request.node_types)}
            launches = {
                i: needs[i] for i, node_id in enumerate(verdict.reuse) if node_id is None and i not in verdict.resumed
            }
        provider, pool = self.ctx.provider.name, self.ctx.pool.name
        return self.ctx.reservations.open(provider, pool, request.tenant_name, launches, needs)

    def _need(self, label: str) -> Usage:
        return self.ctx.provider.need(self.ctx.pool.name, label)

    async def _handle(self, handler: RequestHandler, touched: int) -> None:
        """Run one handler; a fault in it is logged, costs this request its place here, and nobody else anything."""
        request_id = handler.request.id
        try:
            async with self.ctx.provider.using(handler.generation):
                outcome = await handler.run()
            self.fates.ended(request_id, outcome, handler.state)
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

    def explain(self, request_id: RequestId) -> Standing:
        """How the request stands with this pool."""
        handling = self._handling.get(request_id)
        state, waits = (handling.handler.state, handling.handler.waits) if handling else (None, {})
        return self.fates.standing(self.ctx, request_id, self.verdicts.get(request_id), state, waits)

    def _happened(self, pool: str, request_id: RequestId, what: str) -> None:
        if pool == self.ctx.pool.name:
            self.fates.happened(request_id, what)

    async def _await_room(self, request: NodeRequest, slot: int, label: str, reservation: Reservation) -> None:
        await self._waiting_room.wait(request, slot, self._need(label), reservation)

    def _hand_back(self, request_id: RequestId) -> None:
        if request_id in self._handling:
            self._log.info("room_waited_for_in_vain", request_id=request_id, waited_s=ROOM_WAIT_S)
            self._handling[request_id].handler.post(m.Withdrawn())

    def _tenant_allows(self, waiter: Waiter) -> bool:
        """Whether the tenant has its share by now: what a refused launch left counts until it is gone."""
        name = waiter.request.tenant_name
        if name is None or name not in self._tenants:
            return True
        taken = self.ctx.view.used_by_tenant(name) + self.ctx.reservations.of_tenant(name) - waiter.need
        return self._tenants[name].minus(taken).allows(waiter.need)

    def _give_up_hopeless(self, view: PoolView) -> None:
        """Decline accepted requests that wait for what, as things are by now, there will never be."""
        for request in self._waiting_room.requests:
            for reason in reasons_to_decline(request, view)[:1]:
                self._handling[request.id].handler.post(m.Failed(reason))

    def _make_room(self, group: asyncio.TaskGroup, need: Usage) -> None:
        """Let idle nodes go when a request waits for what they take, no more of them than that takes."""
        if not self.ctx.provider.can_launch or self.ctx.provider.is_refused:
            return
        going = outlook.going(self.ctx, and_also=self._evicting)
        for node_id in make_room(need, outlook.room(self.ctx), going, self._idle()):
            self._evicting.add(node_id)
            group.create_task(self._evict(node_id), name=f"evict {node_id}")

    async def _evict(self, node_id: NodeId) -> None:
        try:
            seen = self.ctx.view.nodes.get(node_id)
            if seen is not None and await discard_node(self.ctx.store, self.ctx.view, seen, self.ctx.clock):
                self._log.info("idle_node_evicted", node_id=node_id)
        except StoreError as error:
            self._log.info("evict_failed", node_id=node_id, detail=str(error))
        finally:
            self._evicting.discard(node_id)
            self._wake.set()
