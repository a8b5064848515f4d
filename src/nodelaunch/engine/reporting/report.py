"""What one launcher tells of itself: its pools with limits and faults, what waits in it and why, its last troubles.

It is made when somebody asks (questions.py), or wants to show it in this process; nothing is kept for it but the last
troubles. What does *not* belong here: the state of the whole cluster (status.py above).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest

import msgspec

from nodelaunch.clock import Clock
from nodelaunch.config.standing import ConfigStanding
from nodelaunch.decisions.breaker import OpenBreaker
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.serve.history import Trouble
from nodelaunch.engine.serve.pool import Pool
from nodelaunch.engine.serve.scheduler import Scheduler
from nodelaunch.engine.supply.minready import ReadyShortfall
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.states import RequestState

MOST_WAITING = 20
"""Requests that are told of, the first ones in the order of service."""


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One pool of one launcher."""

    provider: str
    pool: str
    pool_id: str
    limits: Mapping[str, float] = field(default_factory=dict)
    """By resource, the tighter of the pool's and its provider's; without those that have none."""
    free: Mapping[str, float] = field(default_factory=dict)
    """Of these, what is left for the next request."""
    working: int = 0
    """Requests that are worked on."""
    down: str | None = None
    """Why its provider can't be asked; None while it can."""
    breakers: tuple[OpenBreaker, ...] = ()
    """What is not tried at the moment because it failed again and again."""
    takes_requests: bool = True
    """False where ``max-concurrency`` is 0."""
    is_stopped: bool = False
    """Whether the launcher knows that an operator has paused it."""


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request that waits, and what pools say of it: ``PROVIDER/POOL: reason``."""

    id: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigInForce:
    """Which configuration a launcher has in force."""

    digest: str
    """The same for equal configurations; secrets are left out of it."""
    loaded_at: float
    """Seconds since 1970."""
    path: str | None = None
    """None: it is not from a file, or the launcher is part of another program."""
    restart_needed: tuple[str, ...] = ()
    """Keys of it that take effect at the next start: the process began with something else."""
    refused_at: float | None = None
    """When the files were read that are not in force, as they have errors; None: they are in force."""
    problems: tuple[str, ...] = ()
    """The first of these errors, each with file, line and column."""


@dataclass(frozen=True, slots=True)
class LauncherReport:
    """What a launcher tells of itself."""

    id: str
    started_at: float = 0.0
    """Seconds since 1970."""
    pid: int | None = None
    """Its number on its host."""
    config: ConfigInForce | None = None
    pools: tuple[PoolReport, ...] = ()
    providers: tuple[str, ...] = ()
    """Those whose nodes it deletes: also such as were taken out and have nodes left."""
    waiting: tuple[WaitingRequest, ...] = ()
    """The first `MOST_WAITING` requests that wait."""
    troubles: tuple[Trouble, ...] = ()
    """The last ones, the latest first."""
    min_ready: tuple[ReadyShortfall, ...] = ()
    """Labels of which it has fewer nodes ready than it is to keep."""

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> LauncherReport | None:
        """None where *data* is no report; what another version says besides is left out."""
        try:
            return msgspec.json.decode(data, type=LauncherReport)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None


class Reporter:
    """Reports on one launcher. *own_id*: under which it is present."""

    def __init__(
        self,
        own_id: str,
        view: ClusterView,
        clock: Clock,
        scheduler: Scheduler,
        pools: Mapping[PoolKey, Pool],
        providers: Iterable[str],
        standing: ConfigStanding,
        shortfalls: Callable[[], Iterable[ReadyShortfall]] = tuple,
    ) -> None:
        """*pools* and *providers*: as of now, whenever they are asked for."""
        self.config: ConfigInForce | None = None
        self.config_path: str | None = None
        """Where the configuration is read from; for whoever knows to say."""
        self._own_id = own_id
        self._view = view
        self._clock = clock
        self._scheduler = scheduler
        self._pools = pools
        self._providers = providers
        self._standing = standing
        self._shortfalls = shortfalls
        self._started_at = clock.now()

    def config_loaded(self, digest: str) -> None:
        """Another configuration is in force from now on."""
        self.config = ConfigInForce(digest, self._clock.now())

    def report(self) -> LauncherReport:
        """As of now."""
        config = self.config
        if config is not None:
            standing = self._standing
            config = ConfigInForce(
                config.digest,
                config.loaded_at,
                self.config_path,
                standing.restart_needed,
                standing.refused_at,
                standing.problems,
            )
        return LauncherReport(
            id=self._own_id,
            started_at=self._started_at,
            pid=os.getpid(),
            config=config,
            pools=tuple(self._pool(pool) for _, pool in sorted(self._pools.items())),
            providers=tuple(sorted(self._providers)),
            waiting=tuple(self._waiting()),
            troubles=tuple(reversed(self._scheduler.history.troubles)),
            min_ready=tuple(self._shortfalls()),
        )

    def _pool(self, pool: Pool) -> PoolReport:
        key, provider = pool.key, pool.ctx.provider
        limits, free = pool.ctx.pool.limits(), Limits()
        is_known = key in self._scheduler.own.views
        if is_known:
            view, books = self._scheduler.own.views[key], self._scheduler.facts.books
            limits = view.limits.tightest(provider.cloud.limits) if view.shares_provider_quota else view.limits
            free = books.pool_room(key).tightest(books.provider_room(key))
        return PoolReport(
            provider=key[0],
            pool=key[1],
            pool_id=pool.ctx.pool_id,
            limits=dict(limits.amounts),
            free={name: max(0.0, free[name]) for name in limits.amounts} if is_known else {},
            working=len(pool.handlers),
            down=provider.down,
            breakers=tuple(provider.breakers.told(key[1], pool.ctx.pool.label_names)),
            takes_requests=provider.config.max_concurrency != 0,
            is_stopped=is_known and bool(self._scheduler.own.views[key].pauses),
        )

    def _waiting(self) -> list[WaitingRequest]:
        requests = (self._view.request(request_id) for request_id in self._view.open_requests)
        waiting = (each for each in requests if each is not None and each.state is RequestState.REQUESTED)
        first = nsmallest(MOST_WAITING, waiting, key=lambda request: request.order)
        explain = self._scheduler.explainer.explain
        return [
            WaitingRequest(
                request.id,
                tuple(f"{s.provider}/{s.pool}: {reason}" for s in explain(request.id) for reason in s.reasons[:1]),
            )
            for request in first
        ]
