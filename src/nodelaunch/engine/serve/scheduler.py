"""The scheduler of a launcher, one for all its pools. It watches changes, decides, and hands the decisions to the
pools.

A change marks the requests and pools that it can affect (marks.py, requests.py). One synchronous pass per turn of the
event loop decides on the marked ones. There is no polling. The decisions are in decisions/scheduling.py, their inputs
in facts.py, and dispatch.py carries them out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from nodelaunch.clock import Clock
from nodelaunch.decisions.scheduling import Accepted, Declined, Schedule
from nodelaunch.decisions.triage import Absentee, PoolKey
from nodelaunch.engine.events import EventHub
from nodelaunch.engine.limits.reservations import Reservation, Reservations
from nodelaunch.engine.limits.waiting import CapacityQueue
from nodelaunch.engine.serve.allocator import CapacityAllocator
from nodelaunch.engine.serve.dispatch import Dispatcher
from nodelaunch.engine.serve.explaining import Explainer
from nodelaunch.engine.serve.facts import EngineFacts, OwnPools
from nodelaunch.engine.serve.history import History
from nodelaunch.engine.serve.marks import Marks
from nodelaunch.engine.serve.pool import Pool
from nodelaunch.engine.serve.spare import SpareCapacity
from nodelaunch.engine.view import (
    ClusterView,
    ImagesChanged,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    PausesChanged,
    PoolsChanged,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
    ViewSynced,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.events import RequestNoted
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.store import Store, Unsubscribe
from nodelaunch.protocol.verdicts import Defer, Verdict

log: Logger = get_logger(__name__)

ALARM_SLACK_S = 0.05
"""Seconds added to a deadline of the wall clock, because the loop's timers may run ahead of that clock."""
RETRY_S = 1.0
"""Seconds until the next pass after one with an unexpected error."""


class Scheduler:
    """Decides which pool serves which request. Add pools, `open` it, and close it in the end."""

    def __init__(
        self,
        store: Store,
        view: ClusterView,
        clock: Clock,
        *,
        may_decline: Callable[[], bool] = lambda: True,
        absent: Callable[[], Sequence[Absentee]] = tuple,
        events: EventHub | None = None,
    ) -> None:
        """*may_decline*: returns True once all pools that are about to register have done so. Before that, a pool that
        does not offer a label can't know that no other pool offers it. *absent*: the pools that are away and may
        return. *events*: listeners for decisions, and for errors of clouds that affect requests."""
        self._events = events or EventHub(clock)
        self.schedule: Schedule = Schedule()
        self.own: OwnPools = OwnPools(view)
        self.history: History = History(clock, self._events)
        self.queue: CapacityQueue = CapacityQueue(self._capacity_changed, self._waited_too_long)
        reservations = Reservations(self._given_back)
        self.facts: EngineFacts = EngineFacts(view, clock, self.own, reservations, self.queue, self._note_verdict)
        self.marks: Marks = Marks(self.schedule, self.own, self.facts, self._wake)
        self.dispatcher: Dispatcher = Dispatcher(
            self.schedule, view, self.own, self.facts, self.marks, self.history, reservations
        )
        self.explainer: Explainer = Explainer(self.schedule, self.own, self.facts, self.history, view)
        self._view = view
        self._may_decline = may_decline
        self._absent = absent
        self._allocator = CapacityAllocator(
            store, view, clock, self.own, self.facts, self.queue, self._capacity_changed
        )
        self._are_pools_new = False
        """True if registrations changed since the last look at them."""
        self._timers: dict[str, asyncio.Handle] = {}

    @property
    def counters(self) -> object:
        """Counters of the schedule, for measurements."""
        return self.schedule.counters

    def spare(self) -> SpareCapacity:
        """The capacity that the pools have for min-ready nodes."""
        return SpareCapacity(self.schedule, self.own, self.facts, self.queue, self.explainer)

    # -- life -------------------------------------------------------------------------------------------------------

    def open(self) -> Callable[[], None]:
        """Follow the view from now on. Return a function that ends that."""
        stops = [*self._follow(), self._events.subscribe(self.history.noted, RequestNoted)]
        if self._view.is_synced:
            self._look_at_everything()

        def close() -> None:
            for stop in stops:
                stop()
            for timer in self._timers.values():
                timer.cancel()

        return close

    def add(self, pool: Pool) -> None:
        """Include *pool* in decisions as soon as it is registered."""
        self.own.pools[pool.key] = pool
        self.own.renew(pool.key)

    def remove(self, pool: Pool) -> None:
        """Remove *pool* from decisions."""
        if self.own.pools.get(pool.key) is pool:
            self.own.forget(pool.key)
            self.pools_changed()

    def renewed(self, pool: Pool) -> None:
        """Note that *pool* has a new configuration."""
        self.own.renew(pool.key)
        self.own.generation += 1
        self.wake_all()

    def pools_changed(self) -> None:
        """Note that a pool may have become able, or unable, to take requests."""
        if self.own.find_registered():
            self.wake_all()

    def provider_changed(self, key: PoolKey) -> None:
        """Note a change at the provider of pool *key*, or launches that were interrupted there."""
        if key not in self.own.pools:
            return
        self.own.renew(key)
        self.marks.capacity_changed(key)
        for node in self._view.interrupted_nodes():
            if node.provider == key[0] and node.allocated_to:
                self.dispatcher.requests.put(RequestId(node.allocated_to))

    def configure(self, tenants: Mapping[str, Limits]) -> None:
        """Use these limits of tenants, by name."""
        if tenants != self.facts.books.tenants:
            self.facts.books.tenants = tenants
            self.own.generation += 1
            self.wake_all()

    def wake_all(self) -> None:
        """Look again at everything that waits."""
        self.marks.wake_all()

    # -- what changed -----------------------------------------------------------------------------------------------

    def _follow(self) -> list[Unsubscribe]:
        """Mark, from now on, what each change of the view can affect."""
        subscribe, view, marks = self._view.subscribe, self._view, self.marks

        def request_changed(event: RequestSeen | RequestUnlocked) -> None:
            if self.dispatcher.requests.changed(event.id) or self.queue.waiters:
                self._wake()  # an earlier request that is served may matter to requests that wait

        def request_removed(event: RequestRemoved) -> None:
            self.dispatcher.removed(event.id, event.request)
            self._wake()

        def pools_changed(_event: PoolsChanged) -> None:
            self._are_pools_new = True
            self._wake()

        def offers_changed(_event: PausesChanged | ImagesChanged) -> None:
            for key in list(self.own.pools):
                self.provider_changed(key)

        return [
            subscribe(request_changed, RequestSeen, RequestUnlocked),
            subscribe(request_removed, RequestRemoved),
            subscribe(lambda event: marks.node_changed(event.old, view.nodes[event.id].record), NodeSeen),
            subscribe(lambda event: marks.node_unlocked(view.node(event.id)), NodeUnlocked),
            subscribe(lambda event: marks.node_freed(event.node), NodeRemoved),
            subscribe(pools_changed, PoolsChanged),
            subscribe(offers_changed, PausesChanged, ImagesChanged),
            subscribe(lambda _event: self._look_at_everything(), ViewSynced),
        ]

    def _look_at_everything(self) -> None:
        for request_id in self.dispatcher.requests.look_at_all():
            self.dispatcher.removed(request_id)
        self.own.find_registered()
        self.own.find_peers()
        self.schedule.share_among(len(self._view.launchers))
        for key in self.own.pools:
            self.own.renew(key)
            self.marks.capacity_changed(key)
        self.wake_all()

    def _pools_changed(self) -> None:
        """Handle pools that registered, changed or left, or whose return is no longer awaited."""
        self._are_pools_new = False
        for pool in self.own.pools.values():
            pool.registrations_changed()
        absent = list(self._absent())
        is_other = absent != self.facts.absent
        self.facts.absent = absent
        is_other |= self.own.find_registered()
        is_other |= self.own.find_peers()
        if is_other:
            self.schedule.share_among(len(self._view.launchers))
            self.wake_all()

    def _waited_too_long(self, request_id: RequestId) -> None:
        self.dispatcher.withdraw(request_id)

    def _capacity_changed(self, key: PoolKey) -> None:
        self.marks.capacity_changed(key)

    def _given_back(self, key: PoolKey, tenant: str | None) -> None:
        self.marks.given_back(key, tenant)

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if "pass" not in self._timers:
            self._timers["pass"] = asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        """Decide on all that may have changed, without waiting for anything."""
        del self._timers["pass"]
        if not self._view.is_synced:
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
            self.facts.look(self._absent(), may_decline=self._may_decline())
            self._allocator.serve_waiters()
        if not self.schedule.is_idle:
            self.facts.look(self._absent(), may_decline=self._may_decline())
            decisions = self.schedule.decide(self.facts)
            for accepted in [each for each in decisions if isinstance(each, Accepted)]:
                self.dispatcher.accept(accepted)
            for declined in [each for each in decisions if isinstance(each, Declined)]:
                self.dispatcher.decline(declined)
            self._set_alarm()
        for key in self.marks.take_touched():
            pool = self.own.pools.get(key)
            if pool is not None:
                self._report_pool(pool)

    def _report_pool(self, pool: Pool) -> None:
        """Report a full pool to peers, a shortage to its provider, and have idle nodes deleted to free capacity."""
        is_stopped = bool(pool.pauses)
        pool.withdraw_waiting(is_stopped=is_stopped)
        key, kept, provider = pool.key, self.schedule.kept, pool.ctx.provider
        has_waiters = bool(self.queue.waiters) and self.queue.first(key) is not None
        is_full = has_waiters or kept.is_full(key)
        pool.set_paused(is_full or provider.is_away or is_stopped)
        provider.awaited.set(key[1], is_awaited=has_waiters or kept.awaits_provider(key))
        if is_full and self.facts.has_idle(key):
            self._allocator.evict_idle_nodes(pool, kept.first_need(key))

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
            self.marks.touched[key] = None

    async def await_capacity(self, request: NodeRequest, slot: int, label: str, reservation: Reservation) -> None:
        """Wait until there is capacity for one more node with *label*, and it is in the *reservation*."""
        need = self.own.pools[reservation.key].ctx.provider.need(reservation.key[1], label)
        await self.queue.wait(request, slot, need, reservation)
