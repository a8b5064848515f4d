"""Room to spare for nodes that are kept ready: whether there is some for a label, and why a request for one got none.

What does *not* belong here: when it is asked for again (minready.py, retries.py).
"""

from __future__ import annotations

from nodelaunch.decisions.scheduling import Schedule
from nodelaunch.decisions.triage import PoolKey, PoolView, Room, judge
from nodelaunch.engine.limits.waiting import CapacityQueue
from nodelaunch.engine.serve.explaining import Explainer
from nodelaunch.engine.serve.facts import EngineFacts, OwnPools
from nodelaunch.engine.serve.history import RequestStanding
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, RequestId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.verdicts import Accept, AtCapacity


class SpareRoom:
    """As the pools of one process have it now."""

    def __init__(
        self, schedule: Schedule, own: OwnPools, facts: EngineFacts, queue: CapacityQueue, explainer: Explainer
    ) -> None:
        self._schedule = schedule
        self._own = own
        self._facts = facts
        self._queue = queue
        self._explainer = explainer

    def has_room(self, label: str) -> bool:
        """Whether a pool could launch one node with *label* now, and nobody waits for that room."""
        request = NodeRequest(id=RequestId(""), node_types=(label,), reuse=False, requestor=MIN_READY_REQUESTOR)
        own = self._own.registered.values()
        return any(self._could_launch(request, view) for view in own if label in view.labels)

    def _could_launch(self, request: NodeRequest, view: PoolView) -> bool:
        key, facts = view.key, self._facts
        if self._is_waited_for(key):
            return False
        room = Room(
            pool=facts.pool_left(key),
            provider=facts.provider_left(key),
            launching=facts.launching(key[0]) if view.max_concurrency >= 0 else 0,
            now=facts.now,
        )
        return isinstance(judge(request, view, room), Accept)

    def _is_waited_for(self, key: PoolKey) -> bool:
        """Whether requests wait for room in the pool, or at its provider."""
        kept = self._schedule.kept
        return kept.is_full(key) or kept.awaits_provider(key) or bool(self._queue.waiters)

    def why(self, request_id: RequestId, label: str) -> tuple[str, ...]:
        """What the pools that offer *label* say of a request for it: ``PROVIDER/POOL: reason``."""
        standings = self._standings(request_id, label)
        if not standings:
            return ("no pool of this launcher offers it",)
        return tuple(f"{each.provider}/{each.pool}: {reason}" for each in standings for reason in each.reasons[:1])

    def lacked_room(self, request_id: RequestId, label: str) -> bool:
        """Whether room was all that any pool had too little of for a request that was declined."""
        reasons = [reason for each in self._standings(request_id, label) for reason in each.reasons]
        return bool(reasons) and all(isinstance(reason, AtCapacity) for reason in reasons)

    def _standings(self, request_id: RequestId, label: str) -> list[RequestStanding]:
        """How the request stands with the pools that offer *label*."""
        offering = {view.pool_id for view in self._own.views.values() if label in view.labels}
        return [each for each in self._explainer.explain(request_id) if each.pool_id in offering]
