"""The requests of a launcher: waiting ones, ones in work, and ones that it leaves alone for now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nodelaunch.decisions.scheduling import Declined, Schedule
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.serve.facts import OwnPools
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.verdicts import Decline, HandlerFailed


@dataclass(eq=False, slots=True)
class Work:
    """A request that a pool of this process serves or declines."""

    key: PoolKey
    planned: tuple[NodeId, ...]
    """Idle nodes that are to be claimed for the request."""
    changes: int = 0
    """Number of times that the request was seen to change, or to be unlocked, since the work started."""
    gone: NodeRequest | None = None
    """The last version of the request, if it was deleted."""


class Requests:
    """The requests of one launcher.

    Invariants: a request in work does not wait in the schedule; of a deleted request nothing is remembered after the
    work on it has ended.

    *decline_failed* is called for a request that pools decline because its handling failed there.
    """

    def __init__(
        self, schedule: Schedule, view: ClusterView, own: OwnPools, decline_failed: Callable[[Declined], None]
    ) -> None:
        self.work: dict[RequestId, Work] = {}
        self.lock_refused: set[RequestId] = set()
        """Requests that others had locked or changed; looked at again when they change."""
        self._failed: dict[RequestId, dict[PoolKey, HandlerFailed]] = {}
        """Requests whose handling failed in a pool, which declines them."""
        self._schedule = schedule
        self._view = view
        self._own = own
        self._decline_failed = decline_failed

    def changed(self, request_id: RequestId) -> bool:
        """Note that the request was seen to change, or to be unlocked. Return True if it may have to be decided on."""
        work = self.work.get(request_id)
        if work is not None:
            work.changes += 1
            return False
        self.lock_refused.discard(request_id)
        return self.put(request_id)

    def put(self, request_id: RequestId) -> bool:
        """Let the request wait, if it is open and not in work here. Return True if a decision may be needed."""
        seen = self._view.open_requests.get(request_id)
        if seen is None or request_id in self.work or request_id in self.lock_refused:
            self._schedule.withdraw(request_id)
            return not self._schedule.is_idle
        if request_id in self._failed and self._is_declined_as_failed(seen.record):
            return False
        is_alone = bool(self._view.interrupted) and bool(self._view.interrupted_for(request_id))
        self._schedule.put(seen.record, is_alone=is_alone)
        return not self._schedule.is_idle

    def failed(self, request_id: RequestId, key: PoolKey, failure: HandlerFailed) -> None:
        """Note that handling the request failed in pool *key*."""
        self._failed.setdefault(request_id, {})[key] = failure

    def drop(self, request_id: RequestId) -> None:
        """Forget a request that was deleted."""
        self._schedule.withdraw(request_id)
        self.lock_refused.discard(request_id)
        self._failed.pop(request_id, None)

    def look_at_all(self) -> list[RequestId]:
        """Find all changes that were missed while the view was not current. Return the requests in work that were
        deleted."""
        there = self._view.requests
        self._schedule.keep_only(self._view.open_requests)
        for request_id in [each for each in (*self.lock_refused, *self._failed) if each not in there]:
            self.drop(request_id)
        for request_id in self._view.open_requests:
            self.put(request_id)
        return [request_id for request_id in self.work if request_id not in there]

    def _is_declined_as_failed(self, request: NodeRequest) -> bool:
        """Have the pools in which the request's handling failed decline it. Return True if that was still to be
        done."""
        views = self._own.views
        failed = {
            key: Decline((reason,))
            for key, reason in self._failed[request.id].items()
            if key in views and views[key].pool_id not in request.declined_by
        }
        if not failed:
            return False
        self._schedule.withdraw(request.id)
        self._decline_failed(Declined(request, failed))
        return True
