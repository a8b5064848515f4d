"""The requests a launcher has to do with: which wait, which are worked on, which it leaves alone for now."""

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
    """A request that a pool of this process works on, or declines."""

    key: PoolKey
    planned: tuple[NodeId, ...]
    """Idle nodes that are to be claimed for it."""
    changes: int = 0
    """How often it was seen to change, or to be unlocked, since the work began."""
    gone: NodeRequest | None = None
    """The request as it was last seen, once it has gone."""


class Requests:
    """Invariants: a request that is worked on does not wait in the schedule; nothing is remembered of a request that
    is gone, once nobody works on it.

    *decline_failed* is called for a request that pools decline since its handling broke there.
    """

    def __init__(
        self, schedule: Schedule, view: ClusterView, own: OwnPools, decline_failed: Callable[[Declined], None]
    ) -> None:
        self.work: dict[RequestId, Work] = {}
        self.refused: set[RequestId] = set()
        """Requests that others had locked or changed; looked at again when something happens to them."""
        self._failed: dict[RequestId, dict[PoolKey, HandlerFailed]] = {}
        """Requests whose handling broke in a pool, which declines them."""
        self._schedule = schedule
        self._view = view
        self._own = own
        self._decline_failed = decline_failed

    def changed(self, request_id: RequestId) -> bool:
        """The request was seen to change, or to be unlocked; whether it may have to be decided on."""
        work = self.work.get(request_id)
        if work is not None:
            work.changes += 1
            return False
        self.refused.discard(request_id)
        return self.put(request_id)

    def put(self, request_id: RequestId) -> bool:
        """Let the request wait, if it is open and nobody here is at it; whether anything may have to be decided."""
        seen = self._view.open_requests.get(request_id)
        if seen is None or request_id in self.work or request_id in self.refused:
            self._schedule.withdraw(request_id)
            return not self._schedule.is_idle
        if request_id in self._failed and self._is_declined_as_failed(seen.record):
            return False
        is_alone = bool(self._view.interrupted) and bool(self._view.interrupted_for(request_id))
        self._schedule.put(seen.record, is_alone=is_alone)
        return not self._schedule.is_idle

    def failed(self, request_id: RequestId, key: PoolKey, failure: HandlerFailed) -> None:
        """Handling the request broke in pool *key*."""
        self._failed.setdefault(request_id, {})[key] = failure

    def drop(self, request_id: RequestId) -> None:
        """The request is gone."""
        self._schedule.withdraw(request_id)
        self.refused.discard(request_id)
        self._failed.pop(request_id, None)

    def look_at_all(self) -> list[RequestId]:
        """What came, changed or went while the view was not current was not told: find out; which requests are gone
        that are worked on."""
        there = self._view.requests
        self._schedule.keep_only(self._view.open_requests)
        for request_id in [each for each in (*self.refused, *self._failed) if each not in there]:
            self.drop(request_id)
        for request_id in self._view.open_requests:
            self.put(request_id)
        return [request_id for request_id in self.work if request_id not in there]

    def _is_declined_as_failed(self, request: NodeRequest) -> bool:
        """Have the request declined by the pools in which its handling broke; whether that was still to be done."""
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
