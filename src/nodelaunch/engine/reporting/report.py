"""The report of one launcher: its pools with limits and faults, the requests that wait and why, its last troubles.

A report is made for a question (explainrpc.py), or to be shown in this process; only the last troubles are recorded for
it in advance. nodelaunch/status.py has the state of the whole cluster.
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
"""Requests that are reported, the first ones in the order of service."""


@dataclass(frozen=True, slots=True)
class PoolReport:
    """The report of one pool of one launcher."""

    provider: str
    pool: str
    pool_id: str
    limits: Mapping[str, float] = field(default_factory=dict)
    """The tighter of the pool's and its provider's limit, by resource; resources without a limit are left out."""
    free: Mapping[str, float] = field(default_factory=dict)
    """The capacity left for the next request, by resource."""
    working: int = 0
    """Requests in work."""
    down: str | None = None
    """The reason why the pool's provider can't be asked; None while it can."""
    breakers: tuple[OpenBreaker, ...] = ()
    """Open breakers."""
    takes_requests: bool = True
    """False if ``max-concurrency`` is 0."""
    is_stopped: bool = False
    """True if the launcher knows that an operator has paused the pool."""


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request that waits, with the pools' reasons: ``PROVIDER/POOL: reason``."""

    id: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigInForce:
    """The configuration that a launcher has in force."""

    digest: str
    """A digest that is the same for equal configurations; secrets are left out of it."""
    loaded_at: float
    """Seconds since 1970."""
    path: str | None = None
    """The path of the file; None: it is not from a file, or the launcher is part of another program."""
    restart_needed: tuple[str, ...] = ()
    """Keys that take effect at the next start: the process started with other values."""
    refused_at: float | None = None
    """The time when files with errors were read, which are not in force; None: the files are in force."""
    problems: tuple[str, ...] = ()
    """The first of these errors, each with file, line and column."""


@dataclass(frozen=True, slots=True)
class LauncherReport:
    """The report of a launcher."""

    id: str
    started_at: float = 0.0
    """Seconds since 1970."""
    pid: int | None = None
    """The launcher's process id on its host."""
    config: ConfigInForce | None = None
    pools: tuple[PoolReport, ...] = ()
    providers: tuple[str, ...] = ()
    """Providers whose nodes the launcher deletes, including removed ones that have nodes left."""
    waiting: tuple[WaitingRequest, ...] = ()
    """The first `MOST_WAITING` requests that wait."""
    troubles: tuple[Trouble, ...] = ()
    """The last troubles, the latest first."""
    min_ready: tuple[ReadyShortfall, ...] = ()
    """Labels with fewer ready nodes than the launcher has to keep."""

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> LauncherReport | None:
        """Return the report in *data*; None if it is none. Unknown keys of another version are left out."""
        try:
            return msgspec.json.decode(data, type=LauncherReport)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None


class Reporter:
    """Makes the reports of one launcher. *own_id*: the id under which it is present."""

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
        """*pools* and *providers*: read again for each report."""
        self.config: ConfigInForce | None = None
        self.config_path: str | None = None
        """The file of the configuration, if the caller sets it."""
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
        """Note that another configuration is in force from now on."""
        self.config = ConfigInForce(digest, self._clock.now())

    def report(self) -> LauncherReport:
        """Return the report as of now."""
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
            free = books.pool_free(key).tightest(books.provider_free(key))
        return PoolReport(
            provider=key[0],
            pool=key[1],
            pool_id=pool.ctx.pool_id,
            limits=dict(limits.amounts),
            free={name: max(0.0, free[name]) for name in limits.amounts} if is_known else {},
            working=len(pool.handlers),
            down=provider.down,
            breakers=tuple(provider.breakers.list_open(key[1], pool.ctx.pool.label_names)),
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
