"""Explains the standing of a request with the pools of this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nodelaunch.decisions.scheduling import Schedule
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.serve.facts import EngineFacts, OwnPools
from nodelaunch.engine.serve.history import History, RequestStanding, nodes_of, status_of
from nodelaunch.engine.serve.pool import Pool
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.verdicts import NoFreeMachine, PoolPaused, ProviderPaused, Reason, Verdict


class Explainer:
    """Combines verdicts, the work of handlers and the history. It changes nothing."""

    def __init__(
        self, schedule: Schedule, own: OwnPools, facts: EngineFacts, history: History, view: ClusterView
    ) -> None:
        self._schedule = schedule
        self._view = view
        self._own = own
        self._facts = facts
        self._history = history

    def verdict(self, request_id: RequestId, key: PoolKey) -> Verdict | None:
        """Return the last decision for pool *key* on a request that waits."""
        return self._schedule.verdict(request_id, key, self._facts) if key in self._own.views else None

    def explain(self, request_id: RequestId) -> list[RequestStanding]:
        """Return the request's standing with each pool of this process."""
        return [self._standing(request_id, pool) for pool in self._own.pools.values()]

    def _standing(self, request_id: RequestId, pool: Pool) -> RequestStanding:
        handler = pool.handlers.get(request_id)
        state, waits = (handler.state, handler.waits) if handler is not None else (None, {})
        events = self._history.events(request_id, pool.key)
        request = self._view.request(request_id)
        labels = request.node_types if request is not None else ()
        verdict = self.verdict(request_id, pool.key)
        status, reasons = status_of(verdict, state, events)
        if state is None and verdict is None and request_id in self._view.open_requests:
            status, reasons = self._not_asked(pool) or (status, reasons)
        return RequestStanding(
            pool_id=pool.ctx.pool_id,
            provider=pool.key[0],
            pool=pool.key[1],
            status=status,
            reasons=(*reasons, *_machines_away(pool, reasons), *_pauses(pool, reasons)),
            nodes=tuple(nodes_of(state, waits)) if state else (),
            history=tuple(events),
            breakers=tuple(pool.ctx.provider.breakers.list_open(pool.key[1], labels)),
            asked=self._history.asked(request_id),
        )

    def _not_asked(self, pool: Pool) -> tuple[str, Sequence[Reason]] | None:
        """Return why an open request is not decided on in the pool; None: it soon will be."""
        if not self._own.views[pool.key].takes_requests:
            return "deferred", (ProviderPaused(),)
        return None


def _pauses(pool: Pool, reasons: Sequence[Reason]) -> list[Reason]:
    """Return the pauses of the pool that *reasons* do not mention."""
    return [reason for reason in map(PoolPaused.of, pool.pauses) if reason not in reasons]


def _machines_away(pool: Pool, reasons: Iterable[Reason]) -> list[Reason]:
    """Return, for each label without a free machine, the machines that are away."""
    hosts = pool.ctx.provider.breakers.hosts
    labels = [reason.label for reason in reasons if isinstance(reason, NoFreeMachine)]
    return [] if hosts is None else [reason for label in labels for reason in hosts.reasons(pool.key[1], label)]
