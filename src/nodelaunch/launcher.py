"""The launcher: builds the store, providers and pools of a configuration, and runs them as one tree of tasks.

    async with Launcher(config) as launcher:
        await launcher.run()

This is the only module that builds a real store, driver, scanner or clock; a caller can pass its own instead. A part
that fails is restarted alone (engine/supervision.py). Signals, the logging set-up and exit codes belong to cli/,
decisions about requests to engine/.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from nodelaunch import __version__
from nodelaunch.clock import Clock, WallClock
from nodelaunch.config.changes import Changes, differences
from nodelaunch.config.file import load_config as read_config
from nodelaunch.config.given import read_given
from nodelaunch.config.models import Config, ProviderConfig
from nodelaunch.config.standing import ConfigStanding
from nodelaunch.connecting import build_store, no_session, server_addresses, socket_path
from nodelaunch.decisions.quarantine import Guard
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.engine.cleanup.sweeper import AgeLimits, Sweeper
from nodelaunch.engine.events import EventHub, emit_record_events, tell_of_session
from nodelaunch.engine.fleet.component import keep_registered
from nodelaunch.engine.fleet.expected import ExpectedPools
from nodelaunch.engine.fleet.offers import OfferedLabels
from nodelaunch.engine.fleet.pausewatch import PauseWatch
from nodelaunch.engine.fleet.presence import KnownPools, PresencePublisher
from nodelaunch.engine.limits.sharing import TenantLedgers
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.engine.providers import Providers
from nodelaunch.engine.reporting.explainrpc import ExplainResponder
from nodelaunch.engine.reporting.report import Reporter
from nodelaunch.engine.serve.pool import Pool, PoolIdentity
from nodelaunch.engine.serve.scheduler import Scheduler
from nodelaunch.engine.service import ProviderService, SharedServices
from nodelaunch.engine.supervision import supervise
from nodelaunch.engine.supply.minready import MinReady
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.errors import ConfigProblem, SessionLostError
from nodelaunch.leases.cluster import StoreCluster
from nodelaunch.log import Logger, get_logger
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import Driver, DriverContext, HostScanner
from nodelaunch.protocol.pauses import Pause, Target, TargetKind
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.records import LauncherComponent, Presence
from nodelaunch.protocol.states import ComponentState
from nodelaunch.protocol.store import SessionState, Store
from nodelaunch.store.embedded.socket import StoreServer
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.store.zookeeper.store import ZooKeeperStore

log: Logger = get_logger(__name__)

CONNECT_TIMEOUT_S = 30.0
"""Default time to wait for the first session with the store."""
DRAIN_GRACE_S = 30.0
"""Default time for running requests to finish after `Launcher.drain`; then they are released for other launchers."""
DRAIN_LIMIT_S = 30.0
"""Time to release requests and finish deletions after that."""


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config,
    *,
    secure: str | os.PathLike[str] | None = None,
    drivers: DriverRegistry | None = None,
) -> Config:
    """Return the checked configuration in file *source* merged with *secure*, or in mapping *source*; log warnings.

    Raises: ConfigError with every problem as file:line:column, or with the path of its key.
    """
    if isinstance(source, (Mapping, Config)):
        if secure is not None:
            raise ValueError("secure needs a configuration file; put its values into the mapping")
        return config_from(source, drivers=drivers)
    config, warnings = read_config(source, secure=secure, drivers=drivers or DriverRegistry())
    _warn(warnings)
    return config


def config_from(given: Mapping[str, Any] | Config, *, drivers: DriverRegistry | None = None) -> Config:
    """Return the checked configuration in *given*, which has the keys of a file; log warnings.

    Raises: ConfigError with every problem, each with the path of its key: ``providers[0].pools[0].max-servers``.
    """
    config, warnings = read_given(given, drivers=drivers or DriverRegistry())
    _warn(warnings)
    return config


def _warn(warnings: Iterable[ConfigProblem]) -> None:
    for warning in warnings:
        log.warning("config_warning", detail=str(warning))


def open_driver(
    config: Config, provider: ProviderConfig, cluster: StoreCluster, *, scanner: HostScanner, drivers: DriverRegistry
) -> Driver:
    """Return the driver of *provider*, a provider in *config*. Raises: DriverError."""
    images = {image.name: image for image in config.diskimages}
    context = DriverContext(scanner=scanner, diskimages=images, cluster=cluster)
    return drivers.open(provider, context)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of an open launcher, besides its providers."""

    site: SharedServices
    presence_publisher: PresencePublisher
    sweeper: Sweeper
    min_ready: MinReady
    responder: ExplainResponder
    offered: OfferedLabels
    expected: ExpectedPools
    reporter: Reporter


@dataclass(frozen=True, slots=True)
class _Beginning:
    """The arguments that a launcher was created with."""

    serves_socket: bool
    """True if other processes reach the store through this launcher."""
    connect_timeout_s: float | None


async def _ensure_paths(store: Store) -> None:
    """Create the top paths; retry if the session ends meanwhile."""
    while True:
        await store.session.connected()
        with suppress(SessionLostError):
            return await store.ensure(*paths.ALWAYS_THERE)


def config_digest(config: Config) -> str:
    """Return a digest that is the same for equal configurations; values of secret types are masked first."""
    content = config.model_dump(serialize_as_any=True)
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _tenants(config: Config) -> dict[str, Limits]:
    return {tenant.tenant_name: tenant.limits() for tenant in config.tenant_resource_limits}


class Launcher:
    """A launcher. Enter it to connect, `run` it to serve, `reload` it to change its configuration, `drain` it to end
    without interrupting requests."""

    def __init__(
        self,
        config: Config | Mapping[str, Any],
        *,
        store: Store | None = None,
        drivers: DriverRegistry | None = None,
        scanner: HostScanner | None = None,
        clock: Clock | None = None,
        hostname: str | None = None,
        connect_timeout_s: float | None = CONNECT_TIMEOUT_S,
    ) -> None:
        """*config*: a checked configuration, or a mapping, which is checked here. *store*: a store, which the launcher
        enters and closes; None: the store that *config* names. Two launchers of one process on one embedded store each
        get a `connect()` of it. *connect_timeout_s*: the time to wait for the first session with the store; None: no
        limit.

        Raises: ConfigError.
        """
        self._drivers = drivers or DriverRegistry()
        config = self._checked(config)
        self.config: Config = config
        self.store: Store = store or build_store(config)
        self._begun = _Beginning(store is None and not config.zookeeper_servers, connect_timeout_s)
        self.config_standing: ConfigStanding = ConfigStanding(config)
        """The difference between the configuration in force, the initial one and the files."""
        self._scanner = scanner or SshScanner()
        self._clock = clock or WallClock()
        self.hostname: str = hostname or socket.gethostname()
        self.events: EventHub = EventHub(self._clock)
        """The event bus of the launcher."""
        self._stack = AsyncExitStack()
        self._parts: _Parts | None = None
        self._providers = Providers(
            lambda config: ProviderService(self._open_parts().site, config), self._on_providers_changed
        )
        self._reloading = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._draining = False

    def _checked(self, config: Config | Mapping[str, Any]) -> Config:
        return config if isinstance(config, Config) else config_from(config, drivers=self._drivers)

    @property
    def providers(self) -> Mapping[str, ProviderRuntime]:
        """The providers with a working driver, so that their nodes can be deleted, by name."""
        return self._providers.runtimes

    @property
    def pools(self) -> Mapping[PoolKey, Pool]:
        """The running pools, by provider and pool."""
        return self._providers.pools

    @property
    def pauses(self) -> Mapping[PoolKey, tuple[Pause, ...]]:
        """The operators' pauses of each running pool; pools without pauses are left out."""
        return {key: pauses for key, pool in self.pools.items() if (pauses := pool.pauses)}

    @property
    def view(self) -> ClusterView:
        """The view of the cluster. Raises: RuntimeError before the launcher is entered."""
        return self._open_parts().site.view

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler, which decides on requests. Raises: RuntimeError before the launcher is entered."""
        return self._open_parts().site.scheduler

    @property
    def id(self) -> str:
        """The id of this process in the store. Raises: RuntimeError before the launcher is entered."""
        return self._open_parts().presence_publisher.id

    @property
    def is_open(self) -> bool:
        """True if the launcher is entered, so that it has a view and a scheduler."""
        return self._parts is not None

    @property
    def reporter(self) -> Reporter:
        """The reporter, which makes the launcher's own report. Raises: RuntimeError before the launcher is entered."""
        return self._open_parts().reporter

    def _open_parts(self) -> _Parts:
        if self._parts is None:
            raise RuntimeError("the launcher is not open: use it with 'async with'")
        return self._parts

    async def __aenter__(self) -> Self:
        """Connect to the store. Raises: StoreUnavailableError."""
        async with AsyncExitStack() as stack:
            limit_s = self._begun.connect_timeout_s
            try:
                async with asyncio.timeout(limit_s):
                    await stack.enter_async_context(self.store)
                    await _ensure_paths(self.store)
            except TimeoutError:
                raise no_session(self.store, limit_s or 0.0) from None
            if self._begun.serves_socket and isinstance(self.store, EmbeddedStore):
                await stack.enter_async_context(StoreServer(self.store, socket_path(self.config)))
            view = await stack.enter_async_context(open_view(self.store))
            stack.callback(self.events.close)
            self._parts = self._make_parts(view)
            stack.callback(self.store.session.subscribe(self._parts.expected.on_session))
            stack.callback(tell_of_session(self.store.session, self.events))
            stack.callback(self.scheduler.open())
            stack.callback(emit_record_events(view, self.events))
            stack.callback(PauseWatch(view, self._is_ours, self._parts.sweeper.sweep_soon).open())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def _make_parts(self, view: ClusterView) -> _Parts:
        launcher_id = uuid.uuid4().hex
        presence = Presence(id=launcher_id, hostname=self.hostname, version=__version__)
        presence_publisher = PresencePublisher(self.store, presence, view)
        expected = ExpectedPools(self._providers.pools, self._wake_pools)
        expected.expect(self.config.providers)
        expected.begin_grace()
        site = self._make_site(view, launcher_id, expected.may_decline)
        min_ready = MinReady(self.store, view, self._clock, launcher_id, site.scheduler.spare())
        site.scheduler.marks.capacity_listeners.append(min_ready.retries.capacity_changed)
        offered = OfferedLabels(self.config.providers, view, site.memory)
        reporter = Reporter(
            launcher_id,
            view,
            self._clock,
            site.scheduler,
            self.pools,
            self.providers,
            self.config_standing,
            min_ready.shortfalls,
        )
        reporter.config_loaded(config_digest(self.config))
        ages = AgeLimits.configured(self.config)
        return _Parts(
            site=site,
            presence_publisher=presence_publisher,
            sweeper=Sweeper(self.store, view, self._clock, self.providers, ages, offered.is_served, launcher_id),
            min_ready=min_ready,
            responder=ExplainResponder(self.store, launcher_id, site.scheduler.explainer.explain, reporter.report),
            offered=offered,
            expected=expected,
            reporter=reporter,
        )

    def _make_site(self, view: ClusterView, own_id: str, may_decline: Callable[[], bool]) -> SharedServices:
        memory = KnownPools(self.store, view, self._clock)
        memory.listeners.append(self._wake_pools)
        scheduler = Scheduler(
            self.store, view, self._clock, may_decline=may_decline, absent=memory.absent, events=self.events
        )
        scheduler.configure(_tenants(self.config))
        return SharedServices(
            store=self.store,
            view=view,
            clock=self._clock,
            scanner=self._scanner,
            scheduler=scheduler,
            memory=memory,
            tenants=TenantLedgers(self.store, view),
            identity=PoolIdentity(self.hostname, __version__, own_id),
            guard=Guard(),
            own_id=own_id,
            open_driver=self._open_driver,
            new_pool_id=lambda provider, pool: f"{self.hostname}-PoolWorker.{provider}-{pool}-{uuid.uuid4().hex}",
            changed=self._providers.refresh,
            drained=lambda: self._open_parts().sweeper.sweep_soon(),  # noqa: PLW0108  there is none yet
            events=self.events,
        )

    def _open_driver(self, config: ProviderConfig) -> Driver:
        cluster = StoreCluster(self.store, self.view, self._clock)
        return open_driver(self.config, config, cluster, scanner=self._scanner, drivers=self._drivers)

    def _on_providers_changed(self, started: Collection[str]) -> None:
        """Notify the other launchers of added or removed providers and pools, and clean up for *started* ones."""
        parts = self._open_parts()
        pools = tuple(pool.ctx.pool_id for pool in self.pools.values())
        parts.presence_publisher.publish(pools=pools, providers=self._providers.at_work)
        for name in started:
            parts.sweeper.provider_started(name)

    def _is_ours(self, target: Target) -> bool:
        """Return True if this launcher runs *target*, or is it."""
        if target.kind is TargetKind.LAUNCHER:
            return target.name in (self.hostname, self._open_parts().presence_publisher.id)
        return target.name.partition("/")[0] in {provider.name for provider in self.config.providers}

    def _wake_pools(self) -> None:
        if self._parts is not None:
            self.scheduler.wake_all()

    def readiness(self) -> list[str]:
        """Return the reasons why the launcher can't take requests now; empty: it can."""
        reasons = []
        if self._draining:
            reasons.append("draining")
        if self.store.session.state is not SessionState.CONNECTED:
            trouble = self.store.trouble if isinstance(self.store, (EmbeddedStore, ZooKeeperStore)) else None
            reasons.append(f"store: {trouble or self.store.session.state.value}")
        if self._parts is None:
            return reasons or ["not connected to the store yet"]
        if not self.view.is_synced:
            reasons.append("view of the cluster not in sync yet")
        return reasons + self._parts.expected.shortcomings()

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled, or until `drain` has finished."""
        parts = self._open_parts()
        component = LauncherComponent(hostname=self.hostname, state=ComponentState.RUNNING, version=__version__)
        self._publish_labels()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(supervise(name, run), name=name)
                for name, run in (
                    ("component", partial(keep_registered, self.store, component)),
                    ("presence", parts.presence_publisher.run),
                    ("memory", parts.site.memory.run),
                    ("sweeper", parts.sweeper.run),
                    ("min-ready", parts.min_ready.run),
                    ("answers", parts.responder.run),
                )
            ]
            with self._providers.serving(group, self.config.providers):
                await self._stopping.wait()
            for task in tasks:
                task.cancel()

    def _publish_labels(self) -> None:
        """Publish the min-ready of the labels, to this launcher's parts and to the other launchers."""
        parts = self._open_parts()
        wanted = {label.name: label.min_ready for label in self.config.labels}
        parts.presence_publisher.publish(min_ready=wanted)
        parts.min_ready.want(wanted)

    async def drain(self, grace_s: float = DRAIN_GRACE_S) -> None:
        """Take no more requests, let running requests finish for *grace_s*, release the rest for others, finish
        running deletions; then `run` returns."""
        if self._draining:
            return
        self._draining = True
        log.info("draining", grace_s=grace_s)
        try:
            async with asyncio.timeout(grace_s + DRAIN_LIMIT_S):
                if self._parts is not None:
                    self._parts.presence_publisher.publish(state=ComponentState.STOPPED)
                await self._providers.drain(grace_s)
                if self._parts is not None:
                    await self._parts.sweeper.settled()
        except TimeoutError:
            log.warning("drain_incomplete", detail="the next launcher cleans up the rest")
        finally:
            self._stopping.set()

    # -- reloading --------------------------------------------------------------------------------------------------

    async def reload(
        self, config: Config | Mapping[str, Any], *, touched: Collection[Path] = (), grace_s: float = DRAIN_GRACE_S
    ) -> Changes:
        """Apply *config*, a checked configuration or a mapping, and return the changes. Only changed parts restart.

        *touched*: changed files that providers include (`ProviderConfig.files`). Requests in removed pools have
        *grace_s* to finish, then they are released for other launchers. A removed provider continues to delete its
        nodes until none is left. Raises: ConfigError, and then nothing is changed.
        """
        config = self._checked(config)
        async with self._reloading:
            changes = differences(self.config, config, touched)
            if not changes:
                log.info("config_unchanged")
                return changes
            self.config_standing.follow(config)
            changes = replace(changes, needs_restart=self.config_standing.restart_needed)
            log.info("config_changed", **changes.summary())
            has_other_servers = server_addresses(config) != server_addresses(self.config)
            self.config = config
            if isinstance(self.store, ZooKeeperStore) and config.zookeeper_servers and has_other_servers:
                self.store.session.use_servers(server_addresses(config))
            if (
                self._parts is None
            ):  # not connected yet: the launcher starts with the configuration in force at that time
                return changes
            self._apply_settings()
            for name in changes.removed:
                self._providers.remove(name, grace_s)
            for provider in config.providers:
                if await self._providers.apply(provider, changes, grace_s):
                    self._open_parts().expected.begin_grace()
            self._open_parts().sweeper.sweep_soon()
            self._wake_pools()
            return changes

    def _apply_settings(self) -> None:
        """Pass the settings outside of providers to the parts."""
        config, parts = self.config, self._open_parts()
        parts.reporter.config_loaded(config_digest(config))
        parts.sweeper.ages = AgeLimits.configured(config)
        parts.offered.providers = config.providers
        parts.expected.expect(config.providers)
        self.scheduler.configure(_tenants(config))
        self._publish_labels()
