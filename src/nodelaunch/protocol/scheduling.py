"""The schedule: which waiting request is served next, by which pool of this process, and which wait for what.

One schedule decides for all pools of a launcher. It looks only at heads of lines (backlog.py), and only at those that
a change can have affected. What a head waits for is kept for it, so that a later request that fits is served and the
one that does not fit is not starved: strict order holds within each resource that somebody waits for, nowhere else.

A decision is a function of `Facts`, which are as of now: nothing here waits, writes or asks the time.
Source of the rules: Nodepool 11's request algorithm; docs/compatibility.md says what differs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol

from nodelaunch.protocol.backlog import Backlog, Line, Offer
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, Limits, Usage
from nodelaunch.protocol.records import NodeRequest, RequestOrder
from nodelaunch.protocol.triage import (
    Absentee,
    IdleNodes,
    PoolKey,
    PoolView,
    RegisteredPool,
    Room,
    Tenant,
    judge,
    need_of,
    wait_for_absentee,
)
from nodelaunch.protocol.verdicts import (
    Accept,
    BetterPool,
    ConcurrencyReached,
    Decline,
    Defer,
    LeftToOthers,
    NobodyLeft,
    NoFreeMachine,
    NoRoom,
    ProviderWanted,
    TenantFull,
    Verdict,
)


class Facts(Protocol):
    """What a schedule decides on. Every answer is as of now and cheap."""

    @property
    def generation(self) -> int:
        """Grows when a pool is registered, leaves, or changes its labels or priority."""

    @property
    def pauses(self) -> int:
        """Grows when a pool of another process is paused or not paused any more."""

    @property
    def peers(self) -> Sequence[RegisteredPool]:
        """All registered pools, those of this process included."""

    def peers_offering(self, label: str) -> Sequence[RegisteredPool]: ...

    @property
    def own(self) -> Mapping[str, PoolView]:
        """The registered pools of this process that take requests, by pool id."""

    def view(self, key: PoolKey) -> PoolView:
        """One of them; the same object as long as nothing in it changes."""

    def pool_left(self, key: PoolKey) -> Limits:
        """What the pool can give by its own limits."""

    def provider_left(self, key: PoolKey) -> Limits:
        """What the pool's provider can give to the pool."""

    def tenant(self, name: str) -> Tenant | None:
        """None: the tenant has no limits."""

    def launching(self, provider: str) -> int:
        """How many launches run at the provider or are about to."""

    def idle(self, key: PoolKey, kept: frozenset[NodeId]) -> IdleNodes:
        """The pool's idle nodes without those *kept*."""

    def idle_count(self, key: PoolKey, label: str) -> int:
        """How many idle nodes with *label* the pool has."""

    def has_idle(self, key: PoolKey) -> bool:
        """Whether the pool has any idle node."""

    def used(self, key: PoolKey) -> float:
        """How many instances the pool has, or is about to have."""

    def begun(self, request_id: RequestId, key: PoolKey) -> Sequence[str]:
        """Labels of nodes whose launch for the request broke off in the pool."""

    @property
    def absent(self) -> Sequence[Absentee]: ...

    @property
    def now(self) -> float:
        """By the wall clock, seconds since 1970."""

    @property
    def may_decline(self) -> bool:
        """False while pools of this process are about to register: what one can't serve, another may."""

    def reserve(self, request: NodeRequest, key: PoolKey, verdict: Accept) -> None:
        """Take what *verdict* needs off what is left, from now on."""

    def decided(self, request: NodeRequest, key: PoolKey, verdict: Verdict) -> None:
        """Take note of what the pool says of the request."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The pool *key* serves the request."""

    request: NodeRequest
    key: PoolKey
    verdict: Accept


@dataclass(frozen=True, slots=True)
class Declined:
    """The pools give the request up, each for its reasons."""

    request: NodeRequest
    verdicts: Mapping[PoolKey, Decline]


Decision = Accepted | Declined


@dataclass(slots=True)
class Counters:
    """What the schedule did so far; for measurements."""

    passes: int = 0
    heads_judged: int = 0
    lines_woken: int = 0


_Waiting = dict[tuple[Line, PoolKey], Defer]


class _Waits:
    """What lines wait for: kept for their heads, so that nothing later takes it."""

    def __init__(self) -> None:
        self.in_pool: dict[PoolKey, _Waiting] = {}
        self.at_provider: dict[str, _Waiting] = {}
        self.for_launches: dict[str, _Waiting] = {}
        """By provider: until fewer launches run."""
        self.of_tenant: dict[str, _Waiting] = {}
        """By tenant: until it has room."""
        self.with_tenant: dict[str, _Waiting] = {}
        """By tenant: for room in pools, which nobody is to wait behind when the tenant is full by now."""

    def add(self, line: Line, key: PoolKey, verdict: Defer) -> None:
        """Keep what *verdict* of pool *key* says for the head of *line*."""
        for groups, name in self._groups(line, key, verdict):
            groups.setdefault(name, {})[line, key] = verdict

    def remove(self, line: Line, key: PoolKey, verdict: Defer) -> None:
        """Keep nothing more of *verdict* in pool *key* for *line*."""
        for groups, name in self._groups(line, key, verdict):
            group = groups.get(name)
            if group is not None and group.pop((line, key), None) is not None and not group:
                del groups[name]

    def beside(self, line: Line, key: PoolKey, verdict: Defer) -> dict[tuple[int, object], _Waiting]:
        """Everything that waits for something that *verdict* waits for; each group under a name of its own."""
        found = self._groups(line, key, verdict)
        return {(id(groups), name): groups[name] for groups, name in found if name in groups}

    def _groups(self, line: Line, key: PoolKey, verdict: Defer) -> list[tuple[dict[Any, _Waiting], Any]]:
        """Where *verdict* belongs. One without reasons is of a request that is being written."""
        found: list[tuple[dict[Any, _Waiting], Any]] = []
        reason = verdict.reasons[0] if verdict.reasons else None
        if reason is None or isinstance(reason, NoRoom | NoFreeMachine) or verdict.kept:
            found.append((self.in_pool, key))
            if line.shape.tenant is not None:
                found.append((self.with_tenant, line.shape.tenant))
        if verdict.waits_for_provider:
            found.append((self.at_provider, key[0]))
        if isinstance(reason, ConcurrencyReached):
            found.append((self.for_launches, key[0]))
        elif isinstance(reason, TenantFull):
            found.append((self.of_tenant, reason.tenant))
        return found


def _earlier(group: _Waiting | None, line: Line) -> list[Defer]:
    """What lines of *group* with an earlier head than *line* wait for, each line once."""
    if not group:
        return []
    order = line.order
    return list({other: verdict for (other, _), verdict in group.items() if other.order < order}.values())


class Schedule:
    """Tell it what changed, then let it `decide`.

    Invariants: only lines in which requests wait keep anything; what a line keeps in a pool is what the pool said of
    its head; a pool that is exhausted has no room for any launch and no idle node, whatever is kept.
    """

    def __init__(self) -> None:
        self.counters = Counters()
        self._backlog = Backlog()
        self._waits = _Waits()
        self._woken: dict[Line, None] = {}
        self._lines_at: dict[PoolKey, dict[Line, None]] = {}
        """Lines in which requests wait, by the pools that may be asked."""
        self._change = 0
        self._changes: OrderedDict[PoolKey, int] = OrderedDict()
        """The number of each pool's last change, the latest last."""
        self._exhausted: set[PoolKey] = set()
        self._short: dict[str, dict[PoolKey, None]] = {}
        """By provider, pools that could not launch something since there was last more room at the provider."""
        self._alarms: dict[Line, float] = {}

    # -- what changed -----------------------------------------------------------------------------------------------

    def put(self, request: NodeRequest, *, is_alone: bool = False) -> None:
        """Let *request* wait; *is_alone*: it is not like others, since launches were begun for it."""
        known = self._backlog.line_of.get(request.id)
        if known is not None:
            is_same = known.requests[request.id] == request and (known.shape.alone is not None) == is_alone
            if is_same and not known.is_busy:
                return
            self.withdraw(request.id)
        line, is_head = self._backlog.put(request, is_alone=is_alone)
        if is_head:
            self._woken[line] = None
            if len(line) == 1:
                self._activate(line)
                self._doubt(line)
            else:
                self._come_forward(line)

    def withdraw(self, request_id: RequestId) -> None:
        """The request does not wait any more."""
        if request_id in self._backlog.line_of:
            line = self._backlog.line_of[request_id]
            if line.waiting[0][1] == request_id:
                self._woken[line] = None
                self._head_left(line)
            else:
                self._backlog.take(request_id)

    def pool_changed(self, key: PoolKey) -> None:
        """There may be more room in the pool, or something else is known of it."""
        self._exhausted.discard(key)
        self._change += 1
        self._changes[key] = self._change
        self._changes.move_to_end(key)
        self._woken.update(self._lines_at.get(key, {}))

    def provider_changed(self, provider: str) -> None:
        """There may be more room at the provider."""
        for key in self._short.pop(provider, ()):
            self.pool_changed(key)

    def tenant_changed(self, name: str) -> None:
        """There may be more room for the tenant."""
        for line, key in self._waits.of_tenant.get(name, {}):
            line.to_reopen.add(key)
            self._woken[line] = None

    def keep_only(self, request_ids: Container[RequestId]) -> None:
        """Of the requests that wait, only these still do."""
        for request_id in [each for each in self._backlog.line_of if each not in request_ids]:
            self.withdraw(request_id)

    def wake_all(self) -> None:
        """Look at every line again: pools came or went, or may decline now."""
        for line in self._backlog.lines.values():
            if line.waiting:
                self._woken[line] = None

    def time_passed(self, now: float) -> None:
        """Look again at what was to be looked at by *now*."""
        for line in [line for line, until in self._alarms.items() if until <= now]:
            line.generation = -1
            self._woken[line] = None

    # -- what is known ----------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing has to be looked at."""
        return not self._woken

    @property
    def next_alarm(self) -> float | None:
        """When `time_passed` is due, by the wall clock."""
        return min(self._alarms.values(), default=None)

    def __len__(self) -> int:
        return len(self._backlog)

    def waits(self, request_id: RequestId) -> bool:
        """Whether the request waits here."""
        return request_id in self._backlog.line_of

    def is_full(self, key: PoolKey) -> bool:
        """Whether requests wait for room in the pool."""
        return any(verdict.waits_for_room for verdict in self._waits.in_pool.get(key, {}).values())

    def awaits_provider(self, key: PoolKey) -> bool:
        """Whether a request waits in the pool for what its provider has not got."""
        return any(pool == key for _, pool in self._waits.at_provider.get(key[0], {}))

    def first_need(self, key: PoolKey) -> Usage | None:
        """What the earliest request that waits for room in the pool needs."""
        waiting = self._waits.in_pool.get(key, {})
        full = [(line.order, n) for n, ((line, _), v) in enumerate(waiting.items()) if v.waits_for_room]
        return list(waiting.values())[min(full)[1]].need if full else None

    def verdict(self, request_id: RequestId, key: PoolKey, facts: Facts) -> Verdict | None:
        """What pool *key* says of a waiting request, as far as it was asked; of one behind a head, what it says of
        that. None: it was not asked yet, or is not concerned."""
        line = self._backlog.line_of.get(request_id)
        if line is None:
            return None
        known = line.deferred.get(key) or line.declined.get(key) or self._yielding(line, key, facts)
        return known or (line.deferred[min(line.full_in)] if line.full_in else None)

    def ahead_of(self, request_id: RequestId) -> int:
        """How many equal requests are served before this one."""
        line = self._backlog.line_of.get(request_id)
        return 0 if line is None else line.place_of(request_id)

    # -- deciding ---------------------------------------------------------------------------------------------------

    def decide(self, facts: Facts) -> list[Decision]:
        """Decide on every head that may have another verdict now, in the order of service."""
        self.counters.passes += 1
        decisions: list[Decision] = []
        heap: list[tuple[RequestOrder, int, Line]] = []
        self._gather(heap)
        while heap:
            order, _, line = heappop(heap)
            if line.waiting and line.order == order:
                self._serve(line, facts, decisions)
            self._gather(heap)
        return decisions

    def _gather(self, heap: list[tuple[RequestOrder, int, Line]]) -> None:
        for line in self._woken:
            if line.waiting:
                self.counters.lines_woken += 1
                heappush(heap, (line.order, self.counters.lines_woken, line))
        self._woken.clear()

    def _serve(self, line: Line, facts: Facts, decisions: list[Decision]) -> None:
        """Decide on the head of *line*; if it leaves the line, the next one is looked at in its turn."""
        self._prepare(line, facts)
        if line.is_left:
            self._ask_last(line, facts)
        accepted = self._ask(line, facts)
        request = line.head
        if accepted is None:
            self._leave_to_others(line, facts)
        if accepted is not None:
            key, verdict = accepted
            if line.is_busy:
                kept = tuple(node_id for node_id in verdict.reuse if node_id)
                self._refuse(line, key, Defer((), verdict.need, waits_for_provider=True, kept=kept))
                return
            facts.reserve(request, key, verdict)
            if line.shape.tenant in self._waits.with_tenant:
                self._tenant_shrank(line.shape.tenant or "", facts)
            facts.decided(request, key, verdict)
            decisions.append(Accepted(request, key, verdict))
            self._offer(line, key, facts)
        elif line.declined and facts.may_decline and not line.is_busy:
            for key, declined in line.declined.items():
                facts.decided(request, key, declined)
            decisions.append(Declined(request, dict(line.declined)))
        else:
            return
        self._woken[line] = None
        self._head_left(line)
        if accepted is None and line.deferred:
            self._keep_while_declined(request, [facts.view(key).pool_id for key in line.declined])

    def _keep_while_declined(self, request: NodeRequest, pool_ids: Sequence[str]) -> None:
        """What the request waits for in other pools is kept for it while its decline is being written."""
        declined_by = (*request.declined_by, *pool_ids)
        self.put(request.into(request.state, request.state_time, declined_by=declined_by), is_alone=True)
        self._backlog.line_of[request.id].is_busy = True

    def _head_left(self, line: Line) -> None:
        """Take the head out. What was kept for it may be had by lines that now come before this one."""
        since = line.order
        self._backlog.take(line.waiting[0][1])
        if not line.waiting:
            self._deactivate(line)
        if line.deferred:
            self._give_way(line, line.deferred, since, line.order if line.waiting else None)

    def _give_way(
        self, line: Line, kept: Mapping[PoolKey, Defer], since: RequestOrder, until: RequestOrder | None
    ) -> None:
        """Of what was *kept* for *line*, heads of orders between *since* and *until* may have what they wait for."""
        groups: dict[tuple[int, object], _Waiting] = {}
        for key, verdict in kept.items():
            groups.update(self._waits.beside(line, key, verdict))
        for group in groups.values():
            for other, key in group:
                order = other.waiting[0][0]
                if since < order and (until is None or order < until) and not self._is_hopeless(other, key):
                    other.to_reopen.add(key)
                    self._woken[other] = None

    def _come_forward(self, line: Line) -> None:
        """*line* has an earlier head than before: what was kept for heads in between does not concern it any more."""
        order, before = line.order, line.waiting[1][0]
        passed: dict[tuple[int, object], bool] = {}
        for key, verdict in line.deferred.items():
            for name, group in self._waits.beside(line, key, verdict).items():
                if name not in passed:
                    passed[name] = any(order < other.waiting[0][0] < before for other, _ in group)
                if passed[name] and not self._is_hopeless(line, key):
                    line.to_reopen.add(key)

    def _doubt(self, line: Line) -> None:
        """What pools said before *line* was empty depends on what was kept for others then."""
        line.to_reopen.update(key for key in line.deferred if not self._is_hopeless(line, key))
        if line.shape.is_min_ready:
            line.to_reopen.update(line.declined)

    def _is_hopeless(self, line: Line, key: PoolKey) -> bool:
        """Whether *line* waits for room in a pool that has none at all."""
        if key not in self._exhausted:
            return False
        verdict = line.deferred.get(key)
        return verdict is not None and verdict.waits_for_room and not verdict.kept

    def _tenant_shrank(self, name: str, facts: Facts) -> None:
        """Keep no room for heads that wait for the tenant now."""
        tenant = facts.tenant(name)
        if tenant is None:
            return
        for (line, key), verdict in list(self._waits.with_tenant[name].items()):
            if line.is_busy or line.generation != facts.generation:
                continue
            if not tenant.room.allows(need_of(line.shape.labels, facts.view(key))):
                self._reopen(line, key, facts)
                self._woken[line] = None
                self._give_way(line, {key: verdict}, line.order, None)

    def _leave_to_others(self, line: Line, facts: Facts) -> None:
        """Keep nothing where *line* would not be served, even if there was room."""
        if line.full_in and line.is_uniform:
            left = {key: verdict for key, verdict in line.deferred.items() if key not in line.full_in}
        elif line.yields_to is not None or line.held_back:
            pools = line.pools
            left = {key: verdict for key, verdict in line.deferred.items() if self._has_to_yield(line, pools[key])}
        else:
            return
        for key in left:
            self._reopen(line, key, facts)
        if left:
            self._give_way(line, left, line.order, None)

    # -- one line ---------------------------------------------------------------------------------------------------

    def _activate(self, line: Line) -> None:
        """Requests wait in *line* from now on."""
        for key in line.pools:
            self._lines_at.setdefault(key, {})[line] = None
        for key, verdict in line.deferred.items():
            self._waits.add(line, key, verdict)

    def _deactivate(self, line: Line) -> None:
        for key in line.pools:
            lines = self._lines_at.get(key)
            if lines is not None and lines.pop(line, line) is None and not lines:
                del self._lines_at[key]
        for key, verdict in line.deferred.items():
            self._waits.remove(line, key, verdict)
        self._alarms.pop(line, None)

    def _prepare(self, line: Line, facts: Facts) -> None:
        """Have the offers of *line* as of now."""
        if line.generation != facts.generation:
            self._deactivate(line)
            self._find_pools(line, facts)
            self._activate(line)
        else:
            if line.pauses != facts.pauses:
                line.yields_to = _better_elsewhere(line, facts)
                line.pauses = facts.pauses
            for key in self._changed_since(line.seen):
                if key in line.pools and not self._would_say_the_same(line, key, facts):
                    self._reopen(line, key, facts)
            for key in sorted(line.to_reopen & (line.deferred.keys() | line.declined.keys())):
                self._reopen(line, key, facts)
        line.to_reopen.clear()
        line.seen = self._change

    def _would_say_the_same(self, line: Line, key: PoolKey, facts: Facts) -> bool:
        return self._is_hopeless(line, key) and line.possible.get(key) is facts.view(key)

    def _changed_since(self, seen: int) -> list[PoolKey]:
        keys = []
        for key in reversed(self._changes):
            if self._changes[key] <= seen:
                break
            keys.append(key)
        return keys

    def _find_pools(self, line: Line, facts: Facts) -> None:
        """Which pools of this process may serve the shape: those that offer it; if no registered pool does, all, since
        each has to decline it."""
        line.forget_pools()
        line.generation, line.pauses = facts.generation, facts.pauses
        offering = _offering(line, facts)
        line.is_offered = bool(offering)
        own = facts.own
        views = [own[peer.pool_id] for peer in offering if peer.pool_id in own]
        if not offering:
            views = [view for pool_id, view in own.items() if pool_id not in line.shape.declined_by]
        line.is_left = bool(own) and line.shape.declined_by.issuperset(peer.pool_id for peer in facts.peers)
        line.yields_to = _better_elsewhere(line, facts)
        line.pools.update((view.key, view.priority) for view in views)
        labels = line.shape.labels
        needs = {need_of(labels, view) for view in views} if offering and line.shape.tenant else set()
        line.is_uniform = len(needs) < 2
        for key in line.pools:
            self._offer(line, key, facts)

    def _offer(self, line: Line, key: PoolKey, facts: Facts) -> None:
        """The pool may be asked for the next request of *line*."""
        if len(line.offers) > 2 * len(line.pools):
            line.drop_stale_offers()
        stamp = line.stamps[key] = line.stamps.get(key, 0) + 1
        if len(line.pools) == 1 or not line.is_offered:
            heappush(line.offers, Offer(line.pools[key], 0, 0.0, 0.0, key, stamp))
            return
        view = facts.view(key)
        need = need_of(line.shape.labels, view)
        left, at_provider = facts.pool_left(key), facts.provider_left(key)
        fits = min((min(left[name], at_provider[name]) / need[name] for name in need), default=0.0)
        labels = line.shape.labels if line.shape.reuse or not view.can_launch else ()
        reusable = min(len(labels), sum(facts.idle_count(key, label) for label in set(labels)))
        if line.shape.alone is not None:
            reusable += len(facts.begun(line.shape.alone, key))
        heappush(line.offers, Offer(line.pools[key], -reusable, -fits, facts.used(key), key, stamp))

    def _reopen(self, line: Line, key: PoolKey, facts: Facts) -> None:
        self._unblock(line, key)
        self._offer(line, key, facts)

    def _unblock(self, line: Line, key: PoolKey) -> None:
        verdict = line.deferred.pop(key, None)
        if verdict is not None:
            line.held_back.pop(key, None)
            line.full_in.discard(key)
            self._waits.remove(line, key, verdict)
        line.declined.pop(key, None)

    def _refuse(self, line: Line, key: PoolKey, verdict: Defer | Decline) -> None:
        """The pool can't serve the head."""
        line.stamps.pop(key, None)
        if isinstance(verdict, Decline):
            line.declined[key] = verdict
            return
        line.deferred[key] = verdict
        self._waits.add(line, key, verdict)
        if verdict.reasons and isinstance(verdict.reasons[0], TenantFull):
            line.full_in.add(key)
        if line.is_offered and verdict.holds_others_back:
            line.held_back[key] = line.pools[key]
        if verdict.until is not None:
            self._alarms[line] = min(verdict.until, self._alarms.get(line, verdict.until))

    def _ask(self, line: Line, facts: Facts) -> tuple[PoolKey, Accept] | None:
        """Ask pools, the best first, until one accepts the head; a tenant that is full is so everywhere."""
        while line.offers and not (line.full_in and line.is_uniform):
            offer = line.offers[0]
            if line.stamps.get(offer.key) != offer.stamp:
                heappop(line.offers)
                continue
            if self._has_to_yield(line, offer.priority):
                return None
            verdict = self._judge(line, offer.key, facts)
            if isinstance(verdict, Accept):
                return offer.key, verdict
            heappop(line.offers)
            self._refuse(line, offer.key, verdict)
            facts.decided(line.head, offer.key, verdict)
        return None

    @staticmethod
    def _has_to_yield(line: Line, priority: int) -> bool:
        if line.yields_to is not None and priority > line.yields_to[0]:
            return True
        return bool(line.held_back) and priority > min(line.held_back.values())

    def _ask_last(self, line: Line, facts: Facts) -> None:
        """Every registered pool has declined the head, and nobody has failed it: one of ours does."""
        view = next(iter(facts.own.values()))
        line.pools.setdefault(view.key, view.priority)
        verdict = wait_for_absentee(line.head, facts.absent, facts.now) or Decline((NobodyLeft(),))
        self._unblock(line, view.key)
        self._refuse(line, view.key, verdict)

    def _judge(self, line: Line, key: PoolKey, facts: Facts) -> Verdict:
        self.counters.heads_judged += 1
        view = facts.view(key)
        verdict = judge(line.head, view, self._room(line, view, facts), is_possible=line.possible.get(key) is view)
        if isinstance(verdict, Accept) or (isinstance(verdict, Defer) and verdict.until is None):
            line.possible[key] = view
        if not isinstance(verdict, Accept):
            self._short.setdefault(key[0], {})[key] = None
            if self._has_nothing(key, view, facts):
                self._exhausted.add(key)
        return verdict

    @staticmethod
    def _has_nothing(key: PoolKey, view: PoolView, facts: Facts) -> bool:
        if facts.has_idle(key):
            return False
        return not view.can_launch or min(facts.pool_left(key)[INSTANCES], facts.provider_left(key)[INSTANCES]) < 1

    def _room(self, line: Line, view: PoolView, facts: Facts) -> Room:
        """What is free in the pool for the head, without what earlier heads wait for."""
        key, provider = view.key, view.key[0]
        pool_left, provider_left = facts.pool_left(key), facts.provider_left(key)
        kept: frozenset[NodeId] = frozenset()
        for verdict in _earlier(self._waits.in_pool.get(key), line):
            pool_left = pool_left.minus(verdict.need)
            kept = kept.union(verdict.kept)
        if view.shares_provider_quota:
            for verdict in _earlier(self._waits.at_provider.get(provider), line):
                provider_left = provider_left.minus(verdict.need)
        ceiling, tenant_left = self._tenant(line, facts)
        return Room(
            pool=pool_left,
            provider=provider_left,
            tenant=tenant_left,
            tenant_ceiling=ceiling,
            launching=facts.launching(provider) if view.max_concurrency >= 0 else 0,
            is_overtaking=bool(_earlier(self._waits.for_launches.get(provider), line)),
            idle=facts.idle(key, kept),
            begun=facts.begun(line.head.id, key) if line.shape.alone is not None else (),
            absent=facts.absent,
            now=facts.now,
        )

    def _tenant(self, line: Line, facts: Facts) -> tuple[Limits, Limits]:
        """The limits of the line's tenant, and what is left of them."""
        name = line.shape.tenant
        tenant = facts.tenant(name) if name is not None else None
        if tenant is None or name is None:
            return NO_LIMITS, NO_LIMITS
        left = tenant.room
        for verdict in _earlier(self._waits.of_tenant.get(name), line):
            left = left.minus(verdict.need)
        return tenant.ceiling, left

    def _yielding(self, line: Line, key: PoolKey, facts: Facts) -> Defer | None:
        """Why a pool that was not asked leaves the head of *line* to others; None: it does not."""
        view = next((view for view in facts.own.values() if view.key == key), None)
        if view is None or view.pool_id in line.shape.declined_by:
            return None
        there = _offering(line, facts)
        if there and line.shape.provider in {peer.provider for peer in there} and line.shape.provider != key[0]:
            return Defer((ProviderWanted(line.shape.provider or ""),))
        for peer in there:
            if peer.priority < view.priority and not peer.is_paused:
                return Defer((BetterPool(peer.pool_id, peer.priority),))
        missing = set(line.shape.labels) - view.labels.keys()
        if missing and there:
            return Defer(tuple(LeftToOthers(label) for label in sorted(missing)))
        return None


def _offering(line: Line, facts: Facts) -> list[RegisteredPool]:
    """The registered pools that offer all labels of the shape and have not declined it; where pools of the provider it
    asks for are among them, only these."""
    shape = line.shape
    wanted = frozenset(shape.labels)
    peers = facts.peers_offering(shape.labels[0]) if shape.labels else facts.peers
    offering = [peer for peer in peers if wanted <= peer.labels and peer.pool_id not in shape.declined_by]
    if shape.provider is None:
        return offering
    return [peer for peer in offering if peer.provider == shape.provider] or offering


def _better_elsewhere(line: Line, facts: Facts) -> tuple[int, str] | None:
    """Priority and id of the best pool of another process that is not paused."""
    own = facts.own
    others = [peer for peer in _offering(line, facts) if not peer.is_paused and peer.pool_id not in own]
    return min(((peer.priority, peer.pool_id) for peer in others), default=None)
