"""The scheduler of a launcher: one for all its pools. It sees what changes, decides, and hands decisions to the pools.

A change marks what it can affect; one synchronous pass per turn of the event loop decides on that. There is no polling.
The decisions themselves are in protocol/scheduling.py, what they are based on is in facts.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import structlog

from nodelaunch.clock import Clock
from nodelaunch.engine.facts import EngineFacts, OwnPools
from nodelaunch.engine.history import History, Standing, nodes_of, status_of
from nodelaunch.engine.pool import Pool
from nodelaunch.engine.reservations import Reservation, Reservations
from nodelaunch.engine.room import Evictor
from nodelaunch.engine.view import (
    ClusterView,
    ImagesChanged,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    Note,
    PoolsChanged,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
    ViewWarmed,
)
from nodelaunch.engine.waiting import ROOM_WAIT_S, CapacityQueue, Waiter
from nodelaunch.protocol import machine as m
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.scheduling import Accepted, Declined, Schedule
from nodelaunch.protocol.store import Store
from nodelaunch.protocol.triage import Absentee, PoolKey, reasons_to_decline
from nodelaunch.protocol.verdicts import Accept, Decline, Defer, HandlerFailed, Verdict

log = structlog.get_logger(__name__)

ALARM_SLACK_S = 0.05
"""Added to a deadline by the wall clock, which the loop's timers may run ahead of."""
RETRY_S = 1.0
"""After a pass that failed unforeseen."""


@dataclass(eq=False, slots=True)
class Work:
    """A request that a pool of this process works on, or declines."""

    key: PoolKey
    planned: tuple[NodeId, ...]
    """Idle nodes that are to be claimed for it."""
    changes: int = 0
    """How often it was seen to change, or to be unlocked, since the work began."""


class Scheduler:
    """Add pools, `open` it, `close` it in the end."""

    def __init__(
        self,
        store: Store,
        view: ClusterView,
        clock: Clock,
        *,
        may_decline: Callable[[], bool] = lambda: True,
        absent: Callable[[], Sequence[Absentee]] = tuple,
    ) -> None:
        """*may_decline*: whether all pools that are about to register have done so. Before, one that does not offer a
        label can't know that nobody does. *absent*: the pools that are away, and waited for."""
        self.schedule = Schedule()
        self.own = OwnPools(view)
        self.history = History(clock)
        self.reservations = Reservations(self._given_back)
        self.queue = CapacityQueue(self._room_changed, self._waited_too_long)
        self.facts = EngineFacts(view, clock, self.own, self.reservations, self.queue, self._note_verdict)
        self.work: dict[RequestId, Work] = {}
        self._view = view
        self._may_decline = may_decline
        self._absent = absent
        self._evictor = Evictor(store, view, clock, self.own, self.facts, self.queue, self.room_changed)
        self._refused: set[RequestId] = set()
        """Requests that others had locked or changed; looked at again when something happens to them."""
        self._failed: dict[RequestId, dict[PoolKey, HandlerFailed]] = {}
        """Requests whose handling broke in a pool, which declines them."""
        self._touched: set[PoolKey] = set()
        """Pools about which something may have to be done after the pass."""
        self._are_pools_new = False
        """Whether registrations changed since they were last looked at."""
        self._timers: dict[str, asyncio.Handle] = {}

    @property
    def counters(self) -> object:
        """What the schedule did so far; for measurements."""
        return self.schedule.counters

    # -- life -------------------------------------------------------------------------------------------------------

    def open(self) -> Callable[[], None]:
        """Follow the view from now on; what is returned ends that."""
        stop = self._view.subscribe(
            self._on_note, RequestSeen, RequestRemoved, RequestUnlocked, NodeSeen, NodeRemoved, NodeUnlocked,
            PoolsChanged, ImagesChanged, ViewWarmed,
        )  # fmt: skip
        if self._view.is_warm:
            self._look_at_everything()

        def close() -> None:
            stop()
            for timer in self._timers.values():
                timer.cancel()

        return close

    def add(self, pool: Pool) -> None:
        """Decide for *pool*, too, as soon as it is registered."""
        self.own.pools[pool.key] = pool
        self.own.renew(pool.key)

    def remove(self, pool: Pool) -> None:
        """Decide for *pool* no more."""
        if self.own.pools.get(pool.key) is pool:
            del self.own.pools[pool.key], self.own.views[pool.key]
            self.pools_changed()

    def renewed(self, pool: Pool) -> None:
        """*pool* has another configuration."""
        self.own.renew(pool.key)
        self.own.generation += 1
        self.wake_all()

    def pools_changed(self) -> None:
        """A pool may be given requests now, or may not any more."""
        if self.own.find_registered():
            self.wake_all()

    def configure(self, tenants: Mapping[str, Limits]) -> None:
        """Keep to these limits of tenants, by name."""
        if tenants != self.facts.tenants:
            self.facts.tenants = tenants
            self.own.generation += 1
            self.wake_all()

    # -- what changed -----------------------------------------------------------------------------------------------

    def _on_note(self, note: Note) -> None:
        match note:
            case RequestSeen(request_id, _) | RequestUnlocked(request_id):
                self._request_changed(request_id)
            case NodeSeen(node_id, old):
                self._node_changed(old, self._view.nodes[node_id].record)
            case NodeUnlocked(node_id):
                self._node_unlocked(self._view.node(node_id))
            case NodeRemoved(_, node):
                self._node_freed(node)
            case RequestRemoved(request_id):
                self._request_removed(request_id)
            case PoolsChanged():
                self._are_pools_new = True
                self._wake()
            case ImagesChanged():
                for key in list(self.own.pools):
                    self.provider_changed(key)
            case ViewWarmed():
                self._look_at_everything()

    def _pools_changed(self) -> None:
        """A pool registered, changed or left, or is waited for no more."""
        self._are_pools_new = False
        absent = list(self._absent())
        is_other = absent != self.facts.absent
        self.facts.absent = absent
        is_other |= self.own.find_registered()
        is_other |= self.own.find_peers()
        if is_other:
            self.wake_all()

    def _look_at_everything(self) -> None:
        """What went while the view was not current was not told."""
        self.schedule.keep_only(self._view.open_requests)
        for known in (self._refused, self._failed):
            for request_id in [each for each in known if each not in self._view.requests]:
                self._drop(request_id)
        for request_id in [each for each in self.work if each not in self._view.requests]:
            self._request_removed(request_id)
        for request_id in self._view.open_requests:
            self._put(request_id)
        self.own.find_registered()
        self.own.find_peers()
        for key in self.own.pools:
            self.room_changed(key)
        self.wake_all()

    def _request_changed(self, request_id: RequestId) -> None:
        work = self.work.get(request_id)
        if work is not None:
            work.changes += 1
            return
        self._refused.discard(request_id)
        if self._put(request_id):
            self._wake()

    def _put(self, request_id: RequestId) -> bool:
        """Let the request wait, if it is open and nobody here is at it; whether it may have to be looked at."""
        seen = self._view.open_requests.get(request_id)
        if seen is None or request_id in self.work or request_id in self._refused:
            self.schedule.withdraw(request_id)
            return not self.schedule.is_idle
        if request_id in self._failed and self._decline_failed(seen.record):
            return False
        is_alone = bool(self._view.interrupted) and bool(self._view.interrupted_for(request_id))
        self.schedule.put(seen.record, is_alone=is_alone)
        return not self.schedule.is_idle

    def _request_removed(self, request_id: RequestId) -> None:
        work = self.work.get(request_id)
        if work is not None:
            self.own.pools[work.key].post(request_id, m.RequestGone())
        else:
            self.history.removed(request_id)
        self.schedule.withdraw(request_id)
        self._drop(request_id)
        self._wake()

    def _drop(self, request_id: RequestId) -> None:
        self._refused.discard(request_id)
        self._failed.pop(request_id, None)

    def _node_changed(self, old: Node | None, new: Node) -> None:
        """Look again if a request could be served now: the node is idle, or takes less than before."""
        if new.is_idle:
            self.room_changed((new.provider or "", new.pool or ""))
            if old is not None and old.tenant_name:
                self._tenant_changed(old.tenant_name)
        elif old is not None and _takes_other_room(old, new):
            self._node_freed(old)

    def _node_unlocked(self, node: Node | None) -> None:
        if node is not None and node.is_idle:
            self.room_changed((node.provider or "", node.pool or ""))

    def _node_freed(self, node: Node) -> None:
        self.room_changed((node.provider or "", node.pool or ""))
        if node.tenant_name:
            self._tenant_changed(node.tenant_name)

    def _tenant_changed(self, name: str) -> None:
        if name in self.facts.tenants:
            self.schedule.tenant_changed(name)
            self._wake()

    def _given_back(self, key: PoolKey, tenant: str | None) -> None:
        self.room_changed(key)
        if tenant is not None:
            self._tenant_changed(tenant)

    def room_changed(self, key: PoolKey) -> None:
        """There may be more room in the pool, or at its provider."""
        self._touched.add(key)
        if key in self.own.pools:
            self.schedule.pool_changed(key)
        self.schedule.provider_changed(key[0])
        self._wake()

    def _room_changed(self, key: PoolKey) -> None:
        self.room_changed(key)

    def provider_changed(self, key: PoolKey) -> None:
        """Something else is known of the provider of pool *key*, or of its cloud."""
        if key not in self.own.pools:
            return
        self.own.renew(key)
        self.room_changed(key)
        for node in self._view.interrupted_nodes():
            if node.provider == key[0] and node.allocated_to and self._put(RequestId(node.allocated_to)):
                self._wake()

    def wake_all(self) -> None:
        """Look at everything that waits again."""
        self.schedule.time_passed(inf)
        self.schedule.wake_all()
        self._touched.update(self.own.pools)
        self._wake()

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if "pass" not in self._timers:
            self._timers["pass"] = asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        """Decide on all that may have changed, at once and without waiting for anything."""
        del self._timers["pass"]
        if not self._view.is_warm:
            return
        try:
            self._decide()
        except Exception:
            log.exception("scheduling_failed", retry_in_s=RETRY_S)
            self._timers["retry"] = asyncio.get_running_loop().call_later(RETRY_S, self.wake_all)

    def _decide(self) -> None:
        if self._are_pools_new:
            self._pools_changed()
        if self.queue.waiters:
            self._serve_waiters()
        if not self.schedule.is_idle:
            self.facts.look(self._absent(), may_decline=self._may_decline())
            decisions = self.schedule.decide(self.facts)
            for accepted in [each for each in decisions if isinstance(each, Accepted)]:
                self._accept(accepted)
            for declined in [each for each in decisions if isinstance(each, Declined)]:
                self._decline(declined)
            self._set_alarm()
        touched, self._touched = self._touched, set()
        for key in touched:
            pool = self.own.pools.get(key)
            if pool is not None:
                self._tell_pool(pool)

    def _serve_waiters(self) -> None:
        """Give room to accepted requests that wait for it; fail those for which there will never be any."""
        self.queue.grant(self.facts.pool_room, self.facts.provider_room, self._tenant_allows)
        self.facts.look(self._absent(), may_decline=True)
        for waiter in list(self.queue.waiters):
            view = self.own.views.get(waiter.key)
            if view is None:
                continue
            tenant = self.facts.tenant(waiter.request.tenant_name or "")
            ceiling = tenant.ceiling if tenant is not None else Limits()
            for reason in reasons_to_decline(waiter.request, view, ceiling, self.facts.now)[:1]:
                self.own.pools[waiter.key].post(waiter.request.id, m.Failed(reason))

    def _tenant_allows(self, waiter: Waiter) -> bool:
        """Whether the tenant has its share by now: what a refused launch left counts until it is gone."""
        name = waiter.request.tenant_name
        tenant = self.facts.tenant(name) if name is not None else None
        if tenant is None or name is None:
            return True
        taken = self._view.used_by_tenant(name) + self.reservations.of_tenant(name) - waiter.need
        return tenant.ceiling.minus(taken).allows(waiter.need)

    def _tell_pool(self, pool: Pool) -> None:
        """Have its peers told whether it is full, its provider whether it is short, and room made from idle nodes."""
        key = pool.key
        provider = pool.ctx.provider
        has_waiters = bool(self.queue.waiters) and self.queue.first(key) is not None
        is_full = has_waiters or self.schedule.kept.is_full(key)
        pool.set_paused(is_full or (provider.is_failing and provider.down is not None))
        provider.room_is_awaited(pool.ctx.pool.name, is_awaited=has_waiters or self.schedule.kept.awaits_provider(key))
        if is_full and self.facts.has_idle(key):
            self._evictor.make_room(pool, self.schedule.kept.first_need(key))

    def _set_alarm(self) -> None:
        """Look again when the first deadline of a deferred request passes."""
        if (timer := self._timers.pop("alarm", None)) is not None:
            timer.cancel()
        deadline = self.schedule.next_alarm
        if deadline is not None:
            delay = max(0.0, deadline - self.facts.now) + ALARM_SLACK_S
            self._timers["alarm"] = asyncio.get_running_loop().call_later(delay, self._alarm, deadline)

    def _alarm(self, deadline: float) -> None:
        self.schedule.time_passed(deadline)
        self._wake()

    def _note_verdict(self, request: NodeRequest, key: PoolKey, verdict: Verdict) -> None:
        self.history.decided(request.id, key, verdict)
        if isinstance(verdict, Defer):
            self._touched.add(key)

    # -- acting -----------------------------------------------------------------------------------------------------

    def _accept(self, decision: Accepted) -> None:
        request, key, verdict = decision.request, decision.key, decision.verdict
        planned = tuple(node_id for node_id in verdict.reuse if node_id is not None)
        reservation = self.facts.reserved.pop(request.id)
        self.work[request.id] = Work(key, planned)
        self._touched.add(key)
        self._start(key, request.id, verdict, reservation, ())

    def _decline(self, decision: Declined) -> None:
        """Let one pool write that all of these give the request up."""
        keys = list(decision.verdicts)
        reasons = tuple(dict.fromkeys(reason for each in decision.verdicts.values() for reason in each.reasons))
        request = decision.request
        self.work[request.id] = Work(keys[0], ())
        reservation = self.reservations.open(keys[0], None, {}, {})
        pool_ids = [self.own.views[key].pool_id for key in keys]
        self._start(keys[0], request.id, Decline(reasons), reservation, pool_ids)

    def _decline_failed(self, request: NodeRequest) -> bool:
        """Have the request declined by the pools in which its handling broke; whether that was still to be done."""
        failed = {
            key: Decline((reason,))
            for key, reason in self._failed[request.id].items()
            if key in self.own.views and self.own.views[key].pool_id not in request.declined_by
        }
        if not failed:
            return False
        self.schedule.withdraw(request.id)
        for key, verdict in failed.items():
            self.history.decided(request.id, key, verdict)
        self._decline(Declined(request, failed))
        return True

    def _start(
        self,
        key: PoolKey,
        request_id: RequestId,
        verdict: Accept | Decline,
        reservation: Reservation,
        pool_ids: Iterable[str],
    ) -> None:
        seen = self._view.requests[request_id]
        self.own.pools[key].start(seen, verdict, reservation, tuple(pool_ids), self._ended)

    def _ended(self, request_id: RequestId, outcome: m.Outcome | None, state: m.State | None, error: object) -> None:
        """A pool is done with the request. *outcome* None: its handling broke with *error*, or its lock was lost."""
        work = self.work.pop(request_id)
        self.facts.taken.difference_update(work.planned)
        if outcome is not None:
            self.history.ended(request_id, work.key, outcome, state)
            if outcome is m.Outcome.REFUSED and not work.changes:
                self._refused.add(request_id)  # look again when something happens to it
        elif isinstance(error, HandlerFailed):
            self._failed.setdefault(request_id, {})[work.key] = error
        if request_id not in self._view.requests:
            self.history.removed(request_id)
            self._drop(request_id)
        self._put(request_id)
        self.room_changed(work.key)

    async def await_room(self, request: NodeRequest, slot: int, label: str, reservation: Reservation) -> None:
        """Wait until there is room for one more node with *label*, and it is in the *reservation*."""
        need = self.own.pools[reservation.key].ctx.provider.need(reservation.key[1], label)
        await self.queue.wait(request, slot, need, reservation)

    def _waited_too_long(self, request_id: RequestId) -> None:
        work = self.work.get(request_id)
        if work is not None:
            log.info("capacity_wait_timed_out", request_id=request_id, waited_s=ROOM_WAIT_S)
            self.own.pools[work.key].post(request_id, m.Withdrawn())

    # -- explaining -------------------------------------------------------------------------------------------------

    def verdict(self, request_id: RequestId, key: PoolKey) -> Verdict | None:
        """What was last decided for pool *key* on a request that waits."""
        if key not in self.own.views:
            return None
        return self.schedule.verdict(request_id, key, self.facts)

    def explain(self, request_id: RequestId) -> list[Standing]:
        """How the request stands with each pool of this process."""
        return [self._standing(request_id, pool) for pool in self.own.pools.values()]

    def _standing(self, request_id: RequestId, pool: Pool) -> Standing:
        handler = pool.handlers.get(request_id)
        state, waits = (handler.state, handler.waits) if handler is not None else (None, {})
        events = self.history.events(request_id, pool.key)
        status, reasons = status_of(self.verdict(request_id, pool.key), state, events)
        return Standing(
            pool_id=pool.ctx.pool_id,
            provider=pool.key[0],
            pool=pool.key[1],
            status=status,
            reasons=tuple(reasons),
            nodes=tuple(nodes_of(state, waits)) if state else (),
            history=tuple(events),
        )


def _takes_other_room(old: Node, new: Node) -> bool:
    return (
        old.resources != new.resources
        or old.tenant_name != new.tenant_name
        or old.provider != new.provider
        or old.pool != new.pool
    )
