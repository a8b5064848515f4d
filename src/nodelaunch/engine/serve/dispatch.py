"""Hands decisions to the pools that carry them out, and records the results of their work on requests."""

from __future__ import annotations

from collections.abc import Iterable

from nodelaunch.decisions import machine as m
from nodelaunch.decisions.scheduling import Accepted, Declined, Schedule
from nodelaunch.engine.limits.reservations import Reservation, Reservations
from nodelaunch.engine.limits.waiting import ROOM_WAIT_S
from nodelaunch.engine.serve.facts import EngineFacts, OwnPools
from nodelaunch.engine.serve.history import History
from nodelaunch.engine.serve.marks import Marks
from nodelaunch.engine.serve.requests import Requests, Work
from nodelaunch.engine.view import ClusterView
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.verdicts import Accept, Decline, HandlerFailed

log: Logger = get_logger(__name__)


class Dispatcher:
    """Owns the requests that pools of this process work on.

    Invariants: a request in ``requests.work`` has one handler, in the pool that its work names; the idle nodes planned
    for it are in ``facts.taken`` until the work ends.
    """

    def __init__(
        self,
        schedule: Schedule,
        view: ClusterView,
        own: OwnPools,
        facts: EngineFacts,
        marks: Marks,
        history: History,
        reservations: Reservations,
    ) -> None:
        self.requests: Requests = Requests(schedule, view, own, self._decline_failed)
        self._view = view
        self._own = own
        self._facts = facts
        self._marks = marks
        self._history = history
        self._reservations = reservations

    def accept(self, decision: Accepted) -> None:
        """Let the chosen pool serve the request."""
        request, key, verdict = decision.request, decision.key, decision.verdict
        planned = tuple(node_id for node_id in verdict.reuse if node_id is not None)
        self._marks.touched[key] = None
        self._start(request.id, Work(key, planned), verdict, self._facts.reserved.pop(request.id), ())

    def decline(self, decision: Declined) -> None:
        """Let one pool write the decline of all pools that the decision names."""
        keys = list(decision.verdicts)
        reasons = tuple(dict.fromkeys(reason for each in decision.verdicts.values() for reason in each.reasons))
        reservation = self._reservations.open(keys[0], None, {}, {})
        pool_ids = [self._own.views[key].pool_id for key in keys]
        self._start(decision.request.id, Work(keys[0], ()), Decline(reasons), reservation, pool_ids)

    def _decline_failed(self, decision: Declined) -> None:
        for key, verdict in decision.verdicts.items():
            self._history.decided(decision.request.id, key, verdict)
        self.decline(decision)

    def _start(
        self,
        request_id: RequestId,
        work: Work,
        verdict: Accept | Decline,
        reservation: Reservation,
        pool_ids: Iterable[str],
    ) -> None:
        self.requests.work[request_id] = work
        seen = self._view.requests[request_id]
        self._own.pools[work.key].start(seen, verdict, reservation, tuple(pool_ids), self._ended)

    def _ended(self, request_id: RequestId, outcome: m.Outcome | None, state: m.State | None, error: object) -> None:
        """Note that a pool has ended its work on the request. *outcome* None: the handler failed with *error*, or its
        lock was lost."""
        requests = self.requests
        work = requests.work.pop(request_id)
        self._facts.taken.difference_update(work.planned)
        if outcome is not None:
            self._history.ended(request_id, work.key, outcome, state)
            if outcome is m.Outcome.LOCK_REFUSED and not work.changes:
                requests.lock_refused.add(request_id)  # look again when the request changes
        elif isinstance(error, HandlerFailed):
            requests.failed(request_id, work.key, error)
        if request_id not in self._view.requests:
            self._remember(work.gone or (state.request if state is not None else None))
            requests.drop(request_id)
        requests.put(request_id)
        self._marks.capacity_changed(work.key)

    def removed(self, request_id: RequestId, request: NodeRequest | None = None) -> None:
        """Stop the work on a request that was deleted. *request*: the last version seen, if known."""
        work = self.requests.work.get(request_id)
        if work is not None:
            work.gone = request
            self._own.pools[work.key].post(request_id, m.RequestGone())
        else:
            self._remember(request)
        self.requests.drop(request_id)

    def _remember(self, request: NodeRequest | None) -> None:
        """Record the outcome of a request that was deleted."""
        if request is None:
            return
        nodes = [self._view.node(node_id) for node_id in request.nodes]
        is_taken = any(
            node is None or node.state is not NodeState.READY or self._view.is_node_locked(node.id) for node in nodes
        )
        self._history.removed(request, is_taken=is_taken or not nodes)

    def withdraw(self, request_id: RequestId) -> None:
        """Hand back a request that has waited too long for capacity."""
        work = self.requests.work.get(request_id)
        if work is not None:
            log.info("capacity_wait_timed_out", request_id=request_id, waited_s=ROOM_WAIT_S)
            self._own.pools[work.key].post(request_id, m.Withdrawn())
