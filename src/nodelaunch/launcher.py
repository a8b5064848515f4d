"""The launcher: builds what the configuration names and runs it as one tree of tasks.

    async with Launcher(config) as launcher:
        await launcher.run()

The only place where a real store, driver, scanner or clock is built; each can be handed in instead. A provider that
fails is restarted by itself, with a growing pause, and takes no other down. What does *not* belong here: signals,
logging set-up, exit codes (cli/), and any decision about requests (engine/).
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from nodelaunch import __version__
from nodelaunch.clock import Clock, WallClock
from nodelaunch.config.changes import Changes, differences
from nodelaunch.config.file import check_files as find_unreadable
from nodelaunch.config.file import load_config as read_config
from nodelaunch.config.file import position_of
from nodelaunch.config.models import Config, ProviderConfig
from nodelaunch.drivers import DriverRegistry
from nodelaunch.engine.minready import MinReady
from nodelaunch.engine.peers import Herald, Memory
from nodelaunch.engine.pool import Pool, PoolIdentity
from nodelaunch.engine.provider import ProviderRuntime
from nodelaunch.engine.questions import Answerer
from nodelaunch.engine.scheduler import Scheduler
from nodelaunch.engine.service import ProviderService, Site
from nodelaunch.engine.sweeper import AgeLimits, Sweeper
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.errors import ConfigProblem, NodelaunchError, SessionLostError, StoreUnavailableError
from nodelaunch.leases import StoreCluster
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import Driver, DriverContext, HostScanner
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.records import LauncherComponent, Node, Presence
from nodelaunch.protocol.states import ComponentState
from nodelaunch.protocol.store import SessionState, Store
from nodelaunch.protocol.triage import Absentee, RegisteredPool
from nodelaunch.sshscan import SshScanner
from nodelaunch.store.embedded import EmbeddedStore
from nodelaunch.store.socket import SocketStore, StoreServer
from nodelaunch.store.zookeeper import TlsFiles, ZooKeeperStore

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 30.0
"""For the first session with the store."""
DRAIN_GRACE_S = 30.0
"""How long running requests may go on after `Launcher.drain` before they are handed back."""
DRAIN_LIMIT_S = 30.0
"""How long handing back and deleting may take after that."""
FIRST_BACKOFF_S, LAST_BACKOFF_S = 1.0, 60.0
REGISTER_GRACE_S = 10.0
"""How long the pools of this launcher wait for each other to be registered before they decline requests."""


def load_config(
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    drivers: DriverRegistry | None = None,
) -> Config:
    """The checked configuration in file *path*, with what *secure* adds; warnings are logged.

    Raises: ConfigError with every problem as file:line:column.
    """
    config, warnings = read_config(path, secure=secure, drivers=drivers or DriverRegistry())
    for warning in warnings:
        log.warning("config_warning", detail=str(warning))
    return config


def check_files(config: Config, path: str, *, secure: str | None = None) -> Sequence[ConfigProblem]:
    """What is wrong with the files the configuration in *path* and *secure* names; nothing is connected to."""
    if unreadable := find_unreadable(path, secure=secure):
        return unreadable
    if config.zookeeper_tls is None:
        return []
    tls = config.zookeeper_tls
    try:
        TlsFiles(tls.cert, tls.key, tls.ca).context()
    except (ValueError, OSError) as error:
        return [ConfigProblem(path, *position_of(path, ("zookeeper-tls",), secure=secure), f"zookeeper-tls: {error}")]
    return []


def build_store(config: Config) -> Store:
    """The store the configuration names: ZooKeeper, or the embedded one."""
    if not config.zookeeper_servers:
        return EmbeddedStore(config.embedded_store.path)
    tls = config.zookeeper_tls
    return ZooKeeperStore(
        _addresses(config),
        chroot=config.chroot,
        tls=TlsFiles(tls.cert, tls.key, tls.ca) if tls else None,
        session_timeout_s=config.zookeeper_timeout,
    )


def _addresses(config: Config) -> list[tuple[str, int]]:
    return [(server.host, server.port) for server in config.zookeeper_servers]


def open_driver(
    config: Config, provider: ProviderConfig, cluster: StoreCluster, *, scanner: HostScanner, drivers: DriverRegistry
) -> Driver:
    """The driver of *provider*, one of *config*'s. Raises: DriverError."""
    images = {image.name: image for image in config.diskimages}
    context = DriverContext(scanner=scanner, diskimages=images, cluster=cluster)
    return drivers.open(provider, context)


def build_client_store(config: Config) -> Store:
    """The same store from another process: where it is embedded, through the running launcher's socket."""
    if config.zookeeper_servers:
        return build_store(config)
    return SocketStore(socket_path(config))


def socket_path(config: Config) -> str:
    """Where a launcher with an embedded store listens for other processes of this machine."""
    return f"{config.embedded_store.path}.sock"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open launcher is made of besides its providers."""

    site: Site
    herald: Herald
    memory: Memory
    sweeper: Sweeper
    min_ready: MinReady
    answerer: Answerer


def _age_limits(config: Config) -> AgeLimits:
    ready = {label.name: float(label.max_ready_age) for label in config.labels}
    return AgeLimits(max_ready_age=ready, max_hold_age=float(config.max_hold_age or 0))


def _offers(
    config: Config, peers: Iterable[RegisteredPool], absent: Iterable[Absentee]
) -> dict[tuple[str | None, str | None], frozenset[str]]:
    """Which labels each pool offers, by provider and pool."""
    offers: dict[tuple[str | None, str | None], frozenset[str]] = {
        (configured.name, pool.name): frozenset(pool.label_names)
        for configured in config.providers
        for pool in configured.pools
    }
    others = [(other.provider, other.pool, other.labels) for other in peers]
    others += [(other.provider, other.pool, other.labels) for other in absent]
    for provider, pool, labels in others:
        offers[provider, pool] = offers.get((provider, pool), frozenset()) | labels
    return offers


def _tenants(config: Config) -> dict[str, Limits]:
    return {tenant.tenant_name: tenant.limits() for tenant in config.tenant_resource_limits}


class Launcher:
    """One launcher process's worth of work. Enter it to connect, `run` it to serve, `reload` it to go on with another
    configuration, `drain` it to end in order."""

    def __init__(
        self,
        config: Config,
        *,
        store: Store | None = None,
        drivers: DriverRegistry | None = None,
        scanner: HostScanner | None = None,
        clock: Clock | None = None,
        hostname: str | None = None,
    ) -> None:
        self.config = config
        self.store = store or build_store(config)
        self.providers: dict[str, ProviderRuntime] = {}
        """Those whose driver could be made, and whose nodes can be deleted."""
        self.pools: dict[tuple[str, str], Pool] = {}
        self._serves_socket = store is None and not config.zookeeper_servers
        self._drivers = drivers or DriverRegistry()
        self._scanner = scanner or SshScanner()
        self._clock = clock or WallClock()
        self._hostname = hostname or socket.gethostname()
        self._stack = AsyncExitStack()
        self._view: ClusterView | None = None
        self._parts: _Parts | None = None
        self._scheduler: Scheduler | None = None
        self._services: dict[str, ProviderService] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Of providers, by name."""
        self._group: asyncio.TaskGroup | None = None
        self._offers: dict[tuple[str | None, str | None], frozenset[str]] = {}
        """Labels by provider and pool, of every pool that is configured here, registered, or away for a while."""
        self._offers_of: tuple[object, object, object] = (None, None, None)
        """What ``_offers`` was found from."""
        self._reloading = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._draining = False
        self._grace_ends = 0.0
        """By the loop's clock."""

    @property
    def view(self) -> ClusterView:
        """What is known of the cluster. Raises: RuntimeError before the launcher is entered."""
        if self._view is None:
            raise RuntimeError("the launcher is not open: use it with 'async with'")
        return self._view

    @property
    def scheduler(self) -> Scheduler:
        """What decides on requests. Raises: RuntimeError before the launcher is entered."""
        if self._scheduler is None:
            raise RuntimeError("the launcher is not open: use it with 'async with'")
        return self._scheduler

    async def __aenter__(self) -> Self:
        """Connect. Raises: StoreUnavailableError."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await stack.enter_async_context(self.store)
                    await self.store.ensure(*paths.ALWAYS_THERE)
            except TimeoutError:
                raise StoreUnavailableError(detail=f"no session within {CONNECT_TIMEOUT_S:g} s") from None
            if self._serves_socket and isinstance(self.store, EmbeddedStore):
                await stack.enter_async_context(StoreServer(self.store, socket_path(self.config)))
            self._view = await stack.enter_async_context(open_view(self.store))
            stack.callback(self.store.session.subscribe(self._on_session))
            self._begin_grace()
            self._parts = self._make_parts(self._view)
            stack.callback(self.scheduler.open())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def _make_parts(self, view: ClusterView) -> _Parts:
        presence = Presence(id=uuid.uuid4().hex, hostname=self._hostname, version=__version__)
        herald = Herald(self.store, presence)
        memory = Memory(self.store, view, self._clock)
        memory.listeners.append(self._wake_pools)
        self._scheduler = Scheduler(self.store, view, self._clock, may_decline=self._may_decline, absent=memory.absent)
        self._scheduler.configure(_tenants(self.config))
        sweeper = Sweeper(self.store, view, self._clock, self.providers, _age_limits(self.config), self._is_served)
        return _Parts(
            herald=herald,
            memory=memory,
            sweeper=sweeper,
            min_ready=MinReady(self.store, view, self._clock, herald.id),
            answerer=Answerer(self.store, herald.id, self._scheduler.explain),
            site=Site(
                store=self.store,
                view=view,
                clock=self._clock,
                scanner=self._scanner,
                scheduler=self._scheduler,
                memory=memory,
                identity=PoolIdentity(self._hostname, __version__),
                open_driver=self._open_driver,
                new_pool_id=lambda provider, pool: f"{self._hostname}-PoolWorker.{provider}-{pool}-{uuid.uuid4().hex}",
                supervise=self._supervise,
                changed=self._on_pools_changed,
            ),
        )

    def _open_driver(self, config: ProviderConfig) -> Driver:
        cluster = StoreCluster(self.store, self.view, self._clock)
        return open_driver(self.config, config, cluster, scanner=self._scanner, drivers=self._drivers)

    def _is_served(self, node: Node) -> bool:
        """Whether a pool that is configured here, registered, or only away for a while offers a label of *node*."""
        absent = self._parts.memory.absent() if self._parts else ()
        known = (self.config, self.view.peers, absent)
        if any(now is not before for now, before in zip(known, self._offers_of, strict=True)):
            self._offers_of, self._offers = known, _offers(self.config, self.view.peers, absent)
        return not self._offers.get((node.provider, node.pool), frozenset()).isdisjoint(node.type)

    def _on_pools_changed(self) -> None:
        """Providers or pools came or went: have the tables of them right, and tell the other launchers."""
        runtimes = {name: s.runtime for name, s in self._services.items() if s.runtime is not None}
        started = [name for name, runtime in runtimes.items() if self.providers.get(name) is not runtime]
        self.providers.clear()
        self.providers.update(runtimes)
        self.pools = {(s.name, pool): s.pools[pool] for s in self._services.values() for pool in s.pools}
        if self._parts is not None:
            self._parts.herald.tell(pools=tuple(pool.ctx.pool_id for pool in self.pools.values()))
            for name in started:
                self._parts.sweeper.provider_started(name)

    # -- health -----------------------------------------------------------------------------------------------------

    def readiness(self) -> list[str]:
        """Why the launcher can't take requests just now, one reason a line; empty: it can."""
        reasons = []
        if self._draining:
            reasons.append("draining")
        if self.store.session.state is not SessionState.CONNECTED:
            trouble = self.store.trouble if isinstance(self.store, EmbeddedStore) else None
            reasons.append(f"store: {trouble or self.store.session.state.value}")
        if not self.view.is_warm:
            reasons.append("view of the cluster not complete yet")
        missing = sorted(self._expected_pools - self.pools.keys())
        reasons += [f"pool {provider}/{pool} not started" for provider, pool in missing]
        reasons += [f"pool {p}/{n} not registered" for (p, n), pool in self.pools.items() if not pool.is_registered]
        return reasons

    @property
    def _expected_pools(self) -> set[tuple[str, str]]:
        return {(provider.name, pool.name) for provider in self.config.providers for pool in provider.pools}

    def _may_decline(self) -> bool:
        """Whether all our pools are registered, or have had the time to be."""
        if asyncio.get_running_loop().time() >= self._grace_ends:
            return True
        return all(key in self.pools and self.pools[key].is_registered for key in self._expected_pools)

    def _on_session(self, state: SessionState) -> None:
        """A new session begins without any registration."""
        if state is SessionState.LOST:
            self._begin_grace()

    def _begin_grace(self) -> None:
        loop = asyncio.get_running_loop()
        self._grace_ends = loop.time() + REGISTER_GRACE_S
        loop.call_at(self._grace_ends, self._wake_pools)

    def _wake_pools(self) -> None:
        if self._scheduler is not None:
            self._scheduler.wake_all()

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled, or until `drain` is through."""
        parts = self._open_parts()
        self._tell_labels()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                tasks = [
                    group.create_task(self._supervise(name, run), name=name)
                    for name, run in (
                        ("component", self._keep_registered),
                        ("presence", parts.herald.run),
                        ("memory", parts.memory.run),
                        ("sweeper", parts.sweeper.run),
                        ("min-ready", parts.min_ready.run),
                        ("answers", parts.answerer.run),
                    )
                ]
                for provider in self.config.providers:
                    self._start_provider(provider)
                await self._stopping.wait()
                for task in (*tasks, *self._tasks.values()):
                    task.cancel()
        finally:
            self._group = None

    def _open_parts(self) -> _Parts:
        if self._parts is None:
            raise RuntimeError("the launcher is not open: use it with 'async with'")
        return self._parts

    def _tell_labels(self) -> None:
        """What is to be kept ready, here and to the others."""
        parts = self._open_parts()
        wanted = {label.name: label.min_ready for label in self.config.labels}
        parts.herald.tell(min_ready=wanted)
        parts.min_ready.want(wanted)

    def _start_provider(self, config: ProviderConfig) -> None:
        if self._group is None:
            return
        name = config.name
        service = ProviderService(self._open_parts().site, config)
        self._services[name] = service
        self._tasks[name] = self._group.create_task(self._supervise(f"provider {name}", service.run), name=name)

    async def drain(self, grace_s: float = DRAIN_GRACE_S) -> None:
        """End in order: take nothing more, let running requests finish for *grace_s*, hand the rest back, finish
        deletions that are under way; then `run` returns."""
        if self._draining:
            return
        self._draining = True
        log.info("draining", grace_s=grace_s)
        try:
            async with asyncio.timeout(grace_s + DRAIN_LIMIT_S):
                if self._parts is not None:
                    self._parts.herald.tell(state=ComponentState.STOPPED)
                await asyncio.gather(*(service.drain(grace_s) for service in self._services.values()))
                if self._parts is not None:
                    await self._parts.sweeper.settled()
        except TimeoutError:
            log.warning("drain_incomplete", detail="what is left is mended by the next launcher")
        finally:
            self._stopping.set()

    # -- reloading --------------------------------------------------------------------------------------------------

    async def reload(
        self, config: Config, *, touched: Collection[Path] = (), grace_s: float = DRAIN_GRACE_S
    ) -> Changes:
        """Go on with *config*, which was checked already; what changed. Only what changed is touched.

        *touched*: files that changed and that providers take in besides (`ProviderConfig.files`). Requests that pools
        taken out are working on have *grace_s* to finish, then they are handed back. A provider taken out goes on
        deleting its nodes until there are none.
        """
        async with self._reloading:
            changes = differences(self.config, config, touched)
            log.info("config_changed" if changes else "config_unchanged", **changes.summary())
            if not changes:
                return changes
            if changes.needs_restart:
                log.warning("restart_needed", keys=list(changes.needs_restart))
            self.config = config
            parts = self._open_parts()
            parts.sweeper.ages = _age_limits(config)
            self.scheduler.configure(_tenants(config))
            if isinstance(self.store, ZooKeeperStore) and "zookeeper-servers" in changes.settings:
                self.store.session.use_servers(_addresses(config))
            self._tell_labels()
            for name in changes.removed:
                self._retire_provider(name, grace_s)
            for provider in config.providers:
                await self._apply_provider(provider, changes, grace_s)
            parts.sweeper.sweep_soon()
            self._wake_pools()
            return changes

    async def _apply_provider(self, provider: ProviderConfig, changes: Changes, grace_s: float) -> None:
        service = self._services.get(provider.name)
        if service is not None and provider.name in changes.replaced:
            await service.drain(0.0)
            await self._end_provider(provider.name)
            service = None
        if service is None:
            self._begin_grace()
            self._start_provider(provider)
        else:
            is_changed = provider.name in (*changes.changed, *changes.added)
            await service.apply(provider, is_changed=is_changed, grace_s=grace_s)

    def _retire_provider(self, name: str, grace_s: float) -> None:
        """Let a provider that is not configured any more finish, in the background."""
        service = self._services.get(name)
        if service is None or self._group is None:
            return

        async def retire() -> None:
            if await service.retired() and self._services.get(name) is service:
                await self._end_provider(name)
                log.info("provider_removed", provider=name)

        service.retire(grace_s)
        self._group.create_task(self._supervise(f"retire {name}", retire), name=f"retire {name}")

    async def _end_provider(self, name: str) -> None:
        """Stop a provider at once."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._services.pop(name, None)
        self._on_pools_changed()

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run *run* again whenever it fails; a fault stays with the task that has it."""
        backoff = FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await run()
                return
            except* SessionLostError:
                log.info("session_lost", task=name)
            except* NodelaunchError as group:
                log.warning("task_failed", task=name, detail="; ".join(map(str, group.exceptions)), retry_in_s=backoff)
            except* Exception:
                log.exception("task_failed", task=name, retry_in_s=backoff)
            if loop.time() - started > LAST_BACKOFF_S:
                backoff = FIRST_BACKOFF_S
            await asyncio.sleep(backoff)
            backoff = min(LAST_BACKOFF_S, backoff * 2)

    async def _keep_registered(self) -> None:
        """Have a launcher component in every session."""
        component = LauncherComponent(hostname=self._hostname, state=ComponentState.RUNNING, version=__version__)
        path = f"{paths.LAUNCHERS}/{self._hostname}"
        while True:
            epoch = await self.store.session.connected()
            await self.store.create(path, component.to_bytes(), ephemeral=True, sequence=True, parents=True)
            await self._until_after(epoch)

    async def _until_after(self, epoch: int) -> None:
        """Wait until session *epoch* is over."""
        changed = asyncio.Event()
        unsubscribe = self.store.session.subscribe(lambda _state: changed.set())
        try:
            while self.store.session.epoch == epoch and self.store.session.state is not SessionState.LOST:
                changed.clear()
                await changed.wait()
        finally:
            unsubscribe()
