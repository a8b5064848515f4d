"""The verdicts of this process's pools on the heads of lines, and the choice of the pool that is asked next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from nodelaunch.decisions.backlog import Line, Offer
from nodelaunch.decisions.facts import Facts
from nodelaunch.decisions.triage import (
    FreeCapacity,
    PoolKey,
    PoolView,
    judge,
    need_of,
    wait_for_absentee,
)
from nodelaunch.decisions.waits import Waits, earlier
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, Limits
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.verdicts import (
    Accept,
    BetterPool,
    Decline,
    Defer,
    LeftToOthers,
    NobodyLeft,
    ProviderWanted,
    TenantFull,
    TurnOfAnother,
    Verdict,
)

TURN_S = 2.0
"""Seconds in which a launcher that is not full may serve a request in its turn, before others do."""
OPEN_S = 30.0
"""Seconds without turns among equal requests, after a launcher missed its turn."""


@dataclass(slots=True)
class Counters:
    """Counters of the schedule, for measurements."""

    passes: int = 0
    heads_judged: int = 0
    lines_woken: int = 0


class PoolAnswers:
    """Asks pools, and remembers their verdicts.

    Invariants: verdicts and reservations exist only for lines in which requests wait; a line's verdict for a pool is
    the pool's verdict on the line's head; an exhausted pool has no capacity for any launch and no idle node, regardless
    of reservations.
    """

    def __init__(self, counters: Counters) -> None:
        self.waits: Waits = Waits()
        self.lines_at: dict[PoolKey, dict[Line, None]] = {}
        """Lines in which requests wait, by the pools that may be asked."""
        self.alarms: dict[Line, float] = {}
        """Times, by the wall clock, when a line has to be looked at again even if nothing changes."""
        self.exhausted: set[PoolKey] = set()
        self._counters = counters
        self._change = 0
        self._changes: OrderedDict[PoolKey, int] = OrderedDict()
        """The number of each pool's last change, in the order of the changes."""
        self._short: dict[str, dict[PoolKey, None]] = {}
        """Pools, by provider, that could not launch a node since the provider last had more capacity."""

    def note_change(self, key: PoolKey) -> None:
        """Note that the pool may give another verdict now."""
        self.exhausted.discard(key)
        self._change += 1
        self._changes[key] = self._change
        self._changes.move_to_end(key)

    def take_short(self, provider: str) -> list[PoolKey]:
        """Remove and return the pools that may launch now, as *provider* may have more capacity."""
        return list(self._short.pop(provider, ()))

    def is_hopeless(self, line: Line, key: PoolKey) -> bool:
        """Return True if *line* waits for capacity in a pool that has none at all."""
        if key not in self.exhausted:
            return False
        verdict = line.deferred.get(key)
        return verdict is not None and verdict.waits_for_capacity and not verdict.kept

    def activate(self, line: Line) -> None:
        """Note that requests wait in *line* from now on."""
        for key in line.pools:
            self.lines_at.setdefault(key, {})[line] = None
        for key, verdict in line.deferred.items():
            self.waits.add(line, key, verdict)

    def deactivate(self, line: Line) -> None:
        for key in line.pools:
            lines = self.lines_at.get(key)
            if lines is not None and lines.pop(line, line) is None and not lines:
                del self.lines_at[key]
        for key, verdict in line.deferred.items():
            self.waits.remove(line, key, verdict)
        self.alarms.pop(line, None)

    def prepare(self, line: Line, facts: Facts) -> None:
        """Update the offers of *line*."""
        if line.peers.generation != facts.generation:
            self.deactivate(line)
            self._find_pools(line, facts)
            self.activate(line)
        else:
            if line.peers.pauses != facts.pauses or 0 < line.peers.open_until <= facts.now:
                self._find_who_goes_first(line, offering_of(line, facts), facts)
            for key in self._changed_since(line.seen):
                if key in line.pools and not self._would_say_the_same(line, key, facts):
                    self.reopen(line, key, facts)
            for key in sorted(line.to_reopen & (line.deferred.keys() | line.declined.keys())):
                self.reopen(line, key, facts)
        line.to_reopen.clear()
        line.seen = self._change
        if line.peers.turn is not None:
            self._await_turn(line, facts)

    @staticmethod
    def _find_who_goes_first(line: Line, offering: Sequence[RegisteredPool], facts: Facts) -> None:
        line.peers.pauses = facts.pauses
        line.peers.yields_to = better_elsewhere(offering, facts)
        if line.peers.open_until <= facts.now:
            line.peers.open_until = 0.0
        takes_turns = facts.launchers > 1 and line.shape.alone is None and not line.peers.open_until
        line.peers.turn = turn_elsewhere(line, offering, facts) if takes_turns else None

    def _await_turn(self, line: Line, facts: Facts) -> None:
        """Leave the head to the launcher whose turn it is, for a limited time: that launcher may be stuck."""
        peers = line.peers
        if peers.awaited is None or peers.awaited not in line.requests:
            peers.awaited, peers.awaited_until = line.head.id, facts.now + TURN_S
        if facts.now < peers.awaited_until:
            self.alarms[line] = peers.awaited_until
        else:
            peers.turn, peers.awaited, peers.open_until = None, None, facts.now + OPEN_S

    def _would_say_the_same(self, line: Line, key: PoolKey, facts: Facts) -> bool:
        return self.is_hopeless(line, key) and line.possible.get(key) is facts.view(key)

    def _changed_since(self, seen: int) -> list[PoolKey]:
        keys = []
        for key in reversed(self._changes):
            if self._changes[key] <= seen:
                break
            keys.append(key)
        return keys

    def _find_pools(self, line: Line, facts: Facts) -> None:
        """Find the pools of this process that may serve the shape: the pools that offer it. If no registered pool
        offers it, find all pools, because each of them has to decline the request."""
        line.forget_pools()
        line.peers.generation = facts.generation
        offering = offering_of(line, facts)
        line.peers.is_offered = bool(offering)
        own = facts.own
        views = [own[peer.pool_id] for peer in offering if peer.pool_id in own]
        if not offering:
            views = [view for pool_id, view in own.items() if pool_id not in line.shape.declined_by]
        line.peers.is_left = bool(own) and line.shape.declined_by.issuperset(peer.pool_id for peer in facts.peers)
        self._find_who_goes_first(line, offering, facts)
        line.pools.update((view.key, view.priority) for view in views)
        labels = line.shape.labels
        needs = {need_of(labels, view) for view in views} if offering and line.shape.tenant else set()
        line.full.is_uniform = len(needs) < 2
        for key in line.pools:
            self.offer(line, key, facts)

    def offer(self, line: Line, key: PoolKey, facts: Facts) -> None:
        """Add an offer: the pool may be asked for the next request of *line*."""
        if len(line.offers) > 2 * len(line.pools):
            line.drop_stale_offers()
        stamp = line.stamps[key] = line.stamps.get(key, 0) + 1
        if len(line.pools) == 1 or not line.peers.is_offered:
            heappush(line.offers, Offer(line.pools[key], False, 0, 0.0, 0.0, key, stamp))
            return
        view = facts.view(key)
        need = need_of(line.shape.labels, view)
        left, at_provider = facts.pool_left(key), facts.provider_left(key)
        fits = min([min(left[name], at_provider[name]) / value for name, value in need.amounts.items()], default=0.0)
        reusable = reusable_for(line, key, facts)
        if line.shape.alone is not None:
            reusable += len(facts.begun(line.shape.alone, key))
        is_doubtful = reusable < len(line.shape.labels) and facts.is_doubtful(key, line.shape.labels)
        heappush(line.offers, Offer(line.pools[key], is_doubtful, -reusable, -fits, facts.used(key), key, stamp))

    def reopen(self, line: Line, key: PoolKey, facts: Facts) -> None:
        self._unblock(line, key)
        self.offer(line, key, facts)

    def _unblock(self, line: Line, key: PoolKey) -> None:
        verdict = line.deferred.pop(key, None)
        if verdict is not None:
            line.held_back.pop(key, None)
            line.full.pools.discard(key)
            self.waits.remove(line, key, verdict)
        line.declined.pop(key, None)

    def record_verdict(self, line: Line, key: PoolKey, verdict: Defer | Decline) -> None:
        """Keep the verdict of a pool that can't serve the head."""
        line.stamps.pop(key, None)
        if isinstance(verdict, Decline):
            line.declined[key] = verdict
            return
        line.deferred[key] = verdict
        self.waits.add(line, key, verdict)
        if verdict.reasons and isinstance(verdict.reasons[0], TenantFull):
            line.full.pools.add(key)
        if line.peers.is_offered and verdict.holds_others_back:
            line.held_back[key] = line.pools[key]
        if verdict.until is not None:
            self.alarms[line] = min(verdict.until, self.alarms.get(line, verdict.until))

    def ask(self, line: Line, facts: Facts) -> tuple[PoolKey, Accept] | None:
        """Ask pools, the best first, until one accepts the head. A full tenant is full in every pool."""
        while line.offers and not line.full.everywhere:
            offer = line.offers[0]
            if line.stamps.get(offer.key) != offer.stamp:
                heappop(line.offers)
                continue
            if self._has_to_yield(line, offer.priority):
                return None
            if is_turn_elsewhere(line, offer.priority) and not serves_out_of_turn(line, offer.key, facts):
                return None
            verdict = self._judge(line, offer.key, facts)
            if isinstance(verdict, Accept):
                return offer.key, verdict
            heappop(line.offers)
            self.record_verdict(line, offer.key, verdict)
            facts.decided(line.head, offer.key, verdict)
        return None

    def keeps_nothing(self, line: Line, key: PoolKey) -> bool:
        """Return True if capacity in the pool is for others than the head of *line*, which would only get idle
        nodes."""
        priority = line.pools[key]
        return self._has_to_yield(line, priority) or is_turn_elsewhere(line, priority)

    @staticmethod
    def _has_to_yield(line: Line, priority: int) -> bool:
        if line.peers.yields_to is not None and priority > line.peers.yields_to[0]:
            return True
        return bool(line.held_back) and priority > min(line.held_back.values())

    def ask_last(self, line: Line, facts: Facts) -> None:
        """Let one pool of this process fail the head: every registered pool has declined it, and no launcher has failed
        it."""
        view = next(iter(facts.own.values()))
        line.pools.setdefault(view.key, view.priority)
        verdict = wait_for_absentee(line.head, facts.absent, facts.now) or Decline((NobodyLeft(),))
        self._unblock(line, view.key)
        self.record_verdict(line, view.key, verdict)

    def _judge(self, line: Line, key: PoolKey, facts: Facts) -> Verdict:
        self._counters.heads_judged += 1
        view = facts.view(key)
        verdict = judge(
            line.head, view, self._free_capacity(line, view, facts), is_possible=line.possible.get(key) is view
        )
        if isinstance(verdict, Accept) or (isinstance(verdict, Defer) and verdict.until is None):
            line.possible[key] = view
        if not isinstance(verdict, Accept):
            self._short.setdefault(key[0], {})[key] = None
            if self._has_nothing(key, view, facts):
                self.exhausted.add(key)
        return verdict

    @staticmethod
    def _has_nothing(key: PoolKey, view: PoolView, facts: Facts) -> bool:
        if facts.has_idle(key):
            return False
        return not view.can_launch or min(facts.pool_left(key)[INSTANCES], facts.provider_left(key)[INSTANCES]) < 1

    def _free_capacity(self, line: Line, view: PoolView, facts: Facts) -> FreeCapacity:
        """Return the free capacity in the pool for the head, after reservations for earlier heads."""
        key, provider = view.key, view.key[0]
        pool_left, provider_left = facts.pool_left(key), facts.provider_left(key)
        kept: frozenset[NodeId] = frozenset()
        for verdict in earlier(self.waits.in_pool.get(key), line):
            pool_left = pool_left.minus(verdict.need)
            kept = kept.union(verdict.kept)
        if view.shares_provider_quota:
            for verdict in earlier(self.waits.at_provider.get(provider), line):
                provider_left = provider_left.minus(verdict.need)
        ceiling, tenant_left = self._tenant(line, facts)
        return FreeCapacity(
            pool=pool_left,
            provider=provider_left,
            tenant=tenant_left,
            tenant_ceiling=ceiling,
            launching=facts.launching(provider) if view.max_concurrency >= 0 else 0,
            is_overtaking=bool(earlier(self.waits.for_launches.get(provider), line)),
            idle=facts.idle(key, kept, line.shape.asker),
            begun=facts.begun(line.head.id, key) if line.shape.alone is not None else (),
            absent=facts.absent,
            now=facts.now,
        )

    def _tenant(self, line: Line, facts: Facts) -> tuple[Limits, Limits]:
        """Return the limits of the line's tenant, and the amounts that are left."""
        name = line.shape.tenant
        tenant = facts.tenant(name) if name is not None else None
        if tenant is None or name is None:
            return NO_LIMITS, NO_LIMITS
        left = tenant.free
        for verdict in earlier(self.waits.of_tenant.get(name), line):
            left = left.minus(verdict.need)
        return tenant.ceiling, left


def reusable_for(line: Line, key: PoolKey, facts: Facts) -> int:
    """Return how many idle nodes the pool has for the head of *line*; a node with several of its labels may count
    twice."""
    labels = line.shape.labels if line.shape.reuse or not facts.view(key).can_launch else ()
    return min(len(labels), sum([facts.idle_count(key, label, line.shape.asker) for label in set(labels)]))


def serves_out_of_turn(line: Line, key: PoolKey, facts: Facts) -> bool:
    """Return True if the pool has an idle node for the head of *line*. The pool then serves the head in any launcher's
    turn, unless the missing nodes would have to be launched and launches fail there."""
    count, labels = reusable_for(line, key, facts), line.shape.labels
    return count > 0 and (count == len(labels) or not facts.is_doubtful(key, labels))


def why_yielding(line: Line, key: PoolKey, facts: Facts) -> Defer | None:
    """Return the reason why a pool that was not asked leaves the head of *line* to others; None: it does not."""
    view = next((view for view in facts.own.values() if view.key == key), None)
    if view is None or view.pool_id in line.shape.declined_by:
        return None
    there = offering_of(line, facts)
    wanted = line.shape.provider
    if there and wanted is not None and wanted != key[0] and all(peer.provider == wanted for peer in there):
        return Defer((ProviderWanted(wanted),))
    for peer in there:
        if peer.priority < view.priority and not peer.is_paused:
            return Defer((BetterPool(peer.pool_id, peer.priority),))
    if line.peers.turn is not None and is_turn_elsewhere(line, view.priority):
        return Defer((TurnOfAnother(line.peers.turn[1]),))
    missing = set(line.shape.labels) - view.labels.keys()
    if missing and there:
        return Defer(tuple(LeftToOthers(label) for label in sorted(missing)))
    return None


def offering_of(line: Line, facts: Facts) -> list[RegisteredPool]:
    """Return the registered pools that offer all labels of the shape and have not declined it. If the request names a
    provider, and some of its pools are among them, return only these, unless an operator has paused them all. Another
    pool would wait for a job that waits for that pool's nodes: a child job's request names the provider of its parent's
    nodes."""
    shape = line.shape
    wanted = frozenset(shape.labels)
    peers = facts.peers_offering(shape.labels[0]) if shape.labels else facts.peers
    offering = [peer for peer in peers if wanted <= peer.labels and peer.pool_id not in shape.declined_by]
    if shape.provider is None:
        return offering
    wanted_there = [peer for peer in offering if peer.provider == shape.provider]
    return wanted_there if any(not peer.is_stopped for peer in wanted_there) else offering


def better_elsewhere(offering: Iterable[RegisteredPool], facts: Facts) -> tuple[int, str] | None:
    """Return priority and id of the best pool of another process that is not paused."""
    own = facts.own
    others = [peer for peer in offering if not peer.is_paused and peer.pool_id not in own]
    return min(((peer.priority, peer.pool_id) for peer in others), default=None)


def is_turn_elsewhere(line: Line, priority: int) -> bool:
    """Return True if a pool of this *priority* leaves the head to the launcher whose turn it is."""
    return line.peers.turn is not None and priority >= line.peers.turn[0]


def turn_elsewhere(line: Line, offering: Iterable[RegisteredPool], facts: Facts) -> tuple[int, str] | None:
    """Return priority and id of a pool of the launcher that is asked first for the requests of *line*, if that is
    another launcher.

    The launchers that have one of the best pools take turns. Paused pools don't count. A launcher whose pools are all
    paused leaves nothing to others: requests that wait for its capacity continue to wait there, so that it stays
    paused. All launchers come to the same result from the same registrations. If two launchers see different
    registrations for a moment, they both take a request, or neither does until they agree.
    """
    free = [peer for peer in offering if not peer.is_paused]
    best = min((peer.priority for peer in free), default=0)
    first = [peer for peer in free if peer.priority == best and peer.launcher]
    if all(peer.pool_id not in facts.own for peer in first):
        return None
    launchers = sorted({peer.launcher for peer in first})
    turn = launchers[line.shape.turn % len(launchers)]
    pool_id = min(peer.pool_id for peer in first if peer.launcher == turn)
    return None if pool_id in facts.own else (best, pool_id)
