"""The spare capacity for min-ready nodes, by label, and the reasons why a request for one was declined.

supply/minready.py and supply/retries.py decide when it is requested again.
"""

from __future__ import annotations

from nodelaunch.decisions.scheduling import Schedule
from nodelaunch.decisions.triage import FreeCapacity, PoolKey, PoolView, judge
from nodelaunch.engine.limits.waiting import CapacityQueue
from nodelaunch.engine.serve.explaining import Explainer
from nodelaunch.engine.serve.facts import EngineFacts, OwnPools
from nodelaunch.engine.serve.history import RequestStanding
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, RequestId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.verdicts import Accept, AtCapacity


class SpareCapacity:
    """The spare capacity of the pools of one process, as of now."""

    def __init__(
        self, schedule: Schedule, own: OwnPools, facts: EngineFacts, queue: CapacityQueue, explainer: Explainer
    ) -> None:
        self._schedule = schedule
        self._own = own
        self._facts = facts
        self._queue = queue
        self._explainer = explainer

    def has_capacity(self, label: str) -> bool:
        """Return True if a pool could launch one node with *label* now, and no request waits for that capacity."""
        request = NodeRequest(id=RequestId(""), node_types=(label,), reuse=False, requestor=MIN_READY_REQUESTOR)
        own = self._own.registered.values()
        return any(self._could_launch(request, view) for view in own if label in view.labels)

    def _could_launch(self, request: NodeRequest, view: PoolView) -> bool:
        key, facts = view.key, self._facts
        if self._is_waited_for(key):
            return False
        free = FreeCapacity(
            pool=facts.pool_left(key),
            provider=facts.provider_left(key),
            launching=facts.launching(key[0]) if view.max_concurrency >= 0 else 0,
            now=facts.now,
        )
        return isinstance(judge(request, view, free), Accept)

    def _is_waited_for(self, key: PoolKey) -> bool:
        """Return True if requests wait for capacity in the pool, or at its provider."""
        kept = self._schedule.kept
        return kept.is_full(key) or kept.awaits_provider(key) or bool(self._queue.waiters)

    def why(self, request_id: RequestId, label: str) -> tuple[str, ...]:
        """Return the reasons of the pools that offer *label* for a request: ``PROVIDER/POOL: reason``."""
        standings = self._standings(request_id, label)
        if not standings:
            return ("no pool of this launcher offers it",)
        return tuple(f"{each.provider}/{each.pool}: {reason}" for each in standings for reason in each.reasons[:1])

    def lacked_capacity(self, request_id: RequestId, label: str) -> bool:
        """Return True if lack of capacity was every pool's only reason to decline a request."""
        reasons = [reason for each in self._standings(request_id, label) for reason in each.reasons]
        return bool(reasons) and all(isinstance(reason, AtCapacity) for reason in reasons)

    def _standings(self, request_id: RequestId, label: str) -> list[RequestStanding]:
        """Return the request's standing with the pools that offer *label*."""
        offering = {view.pool_id for view in self._own.views.values() if label in view.labels}
        return [each for each in self._explainer.explain(request_id) if each.pool_id in offering]
