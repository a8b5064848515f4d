"""The schedule: decides which waiting request is served next, by which pool, and what the others wait for.

One schedule decides for all pools of a launcher. It looks only at heads of lines (backlog.py), and only at the heads
that a change can have affected. Capacity that a head waits for is reserved for it. So a later request that fits is
served, and an earlier one that does not fit is not starved: strict order holds within each resource that a request
waits for, nowhere else.

A decision is a function of `Facts`, which are as of now: nothing here waits, writes or reads the clock. Source of the
rules: Nodepool 11's request algorithm; docs/compatibility.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from nodelaunch.decisions.answers import Counters, PoolAnswers, why_yielding
from nodelaunch.decisions.backlog import Backlog, Line
from nodelaunch.decisions.facts import Facts
from nodelaunch.decisions.triage import (
    PoolKey,
    need_of,
)
from nodelaunch.decisions.waits import Waiting, Waits
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import NodeRequest, RequestOrder
from nodelaunch.protocol.verdicts import (
    Accept,
    Decline,
    Defer,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The pool *key* serves the request."""

    request: NodeRequest
    key: PoolKey
    verdict: Accept


@dataclass(frozen=True, slots=True)
class Declined:
    """The pools decline the request, each for its reasons."""

    request: NodeRequest
    verdicts: Mapping[PoolKey, Decline]


Decision = Accepted | Declined


class Schedule:
    """Decides on waiting requests. Report changes to it, then call `decide`.

    Invariant: between two calls of `decide`, every line whose head may have another verdict is woken.
    """

    def __init__(self) -> None:
        self.counters: Counters = Counters()
        self._backlog = Backlog()
        self._answers = PoolAnswers(self.counters)
        self.kept: Waits = self._answers.waits
        """Capacity that is reserved for requests that wait."""
        self._woken: dict[Line, None] = {}

    # -- what changed -----------------------------------------------------------------------------------------------

    def put(self, request: NodeRequest, *, is_alone: bool = False) -> None:
        """Add *request* to the waiting requests. *is_alone*: it shares no line, because launches were started for
        it."""
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
                self._answers.activate(line)
                self._doubt(line)
            else:
                self._come_forward(line)

    def withdraw(self, request_id: RequestId) -> None:
        """Remove the request from the waiting requests."""
        if request_id in self._backlog.line_of:
            line = self._backlog.line_of[request_id]
            if line.waiting[0][1] == request_id:
                self._woken[line] = None
                self._head_left(line)
            else:
                self._backlog.take(request_id)

    def pool_changed(self, key: PoolKey) -> None:
        """Note that the pool may have more capacity, or that other facts of it changed."""
        self._answers.note_change(key)
        self._woken.update(self._answers.lines_at.get(key, {}))

    def provider_changed(self, provider: str) -> None:
        """Note that the provider may have more capacity."""
        for key in self._answers.take_short(provider):
            self.pool_changed(key)

    def tenant_changed(self, name: str) -> None:
        """Note that the tenant may have more capacity."""
        for line, key in self.kept.of_tenant.get(name, {}):
            line.to_reopen.add(key)
            self._woken[line] = None

    def keep_only(self, request_ids: Container[RequestId]) -> None:
        """Keep only these of the requests that wait."""
        for request_id in [each for each in self._backlog.line_of if each not in request_ids]:
            self.withdraw(request_id)

    def share_among(self, launchers: int) -> None:
        """Set the number of launchers that take turns."""
        if launchers == self._backlog.launchers:
            return
        waiting = [
            request
            for line in self._backlog.lines.values()
            if line.shape.alone is None
            for request in line.requests.values()
        ]
        waiting.sort(key=lambda request: request.order)
        for request in reversed(waiting):  # in this order, so that the heads change last
            self.withdraw(request.id)
        self._backlog.launchers = launchers
        for request in waiting:
            self.put(request)

    def wake_all(self) -> None:
        """Look at every line again, because pools came or went, or may decline now."""
        for line in self._backlog.lines.values():
            if line.waiting:
                self._woken[line] = None

    def time_passed(self, now: float) -> None:
        """Look again at each line whose next look was due by *now*."""
        for line in [line for line, until in self._answers.alarms.items() if until <= now]:
            line.peers.generation = -1
            self._woken[line] = None

    # -- what is known ----------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """True if no line has to be looked at."""
        return not self._woken

    @property
    def next_alarm(self) -> float | None:
        """When `time_passed` is due, by the wall clock."""
        return min(self._answers.alarms.values(), default=None)

    def waits(self, request_id: RequestId) -> bool:
        """Return True if the request waits here."""
        return request_id in self._backlog.line_of

    def verdict(self, request_id: RequestId, key: PoolKey, facts: Facts) -> Verdict | None:
        """Return the verdict of pool *key* on a waiting request, or on the head of its line if it waits behind one.
        None: the pool was not asked yet, or is not concerned."""
        line = self._backlog.line_of.get(request_id)
        if line is None:
            return None
        known = line.deferred.get(key) or line.declined.get(key) or why_yielding(line, key, facts)
        return known or (line.deferred[min(line.full.pools)] if line.full.pools else None)

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
        """Decide on the head of *line*. If it leaves the line, the next head is looked at in its turn."""
        self._answers.prepare(line, facts)
        if line.peers.is_left:
            self._answers.ask_last(line, facts)
        if line.full.everywhere:  # the pools that said so may be pools that are not asked now
            self._leave_to_others(line, facts)
        accepted = self._answers.ask(line, facts)
        request = line.head
        if accepted is None:
            self._leave_to_others(line, facts)
        if accepted is not None:
            key, verdict = accepted
            if line.is_busy:
                kept = tuple(node_id for node_id in verdict.reuse if node_id)
                self._answers.record_verdict(line, key, Defer((), verdict.need, waits_for_provider=True, kept=kept))
                return
            facts.reserve(request, key, verdict)
            if line.shape.tenant in self.kept.with_tenant:
                self._tenant_shrank(line.shape.tenant or "", facts)
            facts.decided(request, key, verdict)
            decisions.append(Accepted(request, key, verdict))
            self._answers.offer(line, key, facts)
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
        """Keep the reservations of the request in other pools while its decline is being written."""
        declined_by = (*request.declined_by, *pool_ids)
        self.put(request.into(request.state, request.state_time, declined_by=declined_by), is_alone=True)
        self._backlog.line_of[request.id].is_busy = True

    def _head_left(self, line: Line) -> None:
        """Remove the head. Its reservations may go to lines that now come before this one."""
        since = line.order
        self._backlog.take(line.waiting[0][1])
        if not line.waiting:
            self._answers.deactivate(line)
        if line.deferred:
            self._give_way(line, line.deferred, since, line.order if line.waiting else None)

    def _give_way(
        self, line: Line, kept: Mapping[PoolKey, Defer], since: RequestOrder, until: RequestOrder | None
    ) -> None:
        """Offer what was *kept* for *line* to heads with an order between *since* and *until*."""
        groups: dict[tuple[int, object], Waiting] = {}
        for key, verdict in kept.items():
            groups.update(self.kept.beside(line, key, verdict))
        for group in groups.values():
            for other, key in group:
                order = other.waiting[0][0]
                if since < order and (until is None or order < until) and not self._answers.is_hopeless(other, key):
                    other.to_reopen.add(key)
                    self._woken[other] = None

    def _come_forward(self, line: Line) -> None:
        """Reopen verdicts on *line* if its head is earlier than before: it precedes the reservations of heads
        in between."""
        order, before = line.order, line.waiting[1][0]
        passed: dict[tuple[int, object], bool] = {}
        for key, verdict in line.deferred.items():
            for name, group in self.kept.beside(line, key, verdict).items():
                if name not in passed:
                    passed[name] = any(order < other.waiting[0][0] < before for other, _ in group)
                if passed[name] and not self._answers.is_hopeless(line, key):
                    line.to_reopen.add(key)

    def _doubt(self, line: Line) -> None:
        """Reopen verdicts from before *line* was empty: they depend on the reservations of that time."""
        line.to_reopen.update(key for key in line.deferred if not self._answers.is_hopeless(line, key))
        if line.shape.is_min_ready:
            line.to_reopen.update(line.declined)

    def _tenant_shrank(self, name: str, facts: Facts) -> None:
        """Drop the reservations of heads that now wait for the tenant."""
        tenant = facts.tenant(name)
        if tenant is None:
            return
        for (line, key), verdict in list(self.kept.with_tenant[name].items()):
            if line.is_busy or line.peers.generation != facts.generation:
                continue
            if not tenant.free.allows(need_of(line.shape.labels, facts.view(key))):
                self._answers.reopen(line, key, facts)
                self._woken[line] = None
                self._give_way(line, {key: verdict}, line.order, None)

    def _leave_to_others(self, line: Line, facts: Facts) -> None:
        """Drop the reservations of *line* where it would not be served even with free capacity."""
        full, peers = line.full.pools if line.full.everywhere else None, line.peers
        if full is None and peers.yields_to is None and peers.turn is None and not line.held_back:
            return
        left = {
            key: verdict
            for key, verdict in line.deferred.items()
            if (full is not None and key not in full) or self._answers.keeps_nothing(line, key)
        }
        for key in left:
            self._answers.reopen(line, key, facts)
        if left:
            self._give_way(line, left, line.order, None)
