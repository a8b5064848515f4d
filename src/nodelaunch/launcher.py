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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

import structlog

from nodelaunch import __version__
from nodelaunch.clock import Clock, WallClock
from nodelaunch.config.file import check_files as find_unreadable
from nodelaunch.config.file import load_config as read_config
from nodelaunch.config.file import position_of
from nodelaunch.config.models import Config, ProviderConfig
from nodelaunch.drivers import DriverRegistry
from nodelaunch.engine.inventory import Inventory
from nodelaunch.engine.launch import PoolContext
from nodelaunch.engine.minready import MinReady
from nodelaunch.engine.pool import Pool, PoolIdentity
from nodelaunch.engine.provider import ProviderRuntime
from nodelaunch.engine.reservations import Reservations
from nodelaunch.engine.sweeper import AgeLimits, Sweeper
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.errors import ConfigProblem, SessionLostError, StoreError, StoreUnavailableError
from nodelaunch.leases import StoreCluster
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import DriverContext, HostScanner, SupportsInventory, SupportsUpkeep
from nodelaunch.protocol.records import LauncherComponent
from nodelaunch.protocol.states import ComponentState
from nodelaunch.protocol.store import SessionState, Store
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
        [(server.host, server.port) for server in config.zookeeper_servers],
        chroot=config.chroot,
        tls=TlsFiles(tls.cert, tls.key, tls.ca) if tls else None,
        session_timeout_s=config.zookeeper_timeout,
    )


def build_client_store(config: Config) -> Store:
    """The same store from another process: where it is embedded, through the running launcher's socket."""
    if config.zookeeper_servers:
        return build_store(config)
    return SocketStore(socket_path(config))


def socket_path(config: Config) -> str:
    """Where a launcher with an embedded store listens for other processes of this machine."""
    return f"{config.embedded_store.path}.sock"


class Launcher:
    """One launcher process's worth of work. Enter it to connect, `run` it to serve, `drain` it to end in order."""

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
        self.pools: dict[tuple[str, str], Pool] = {}
        self._serves_socket = store is None and not config.zookeeper_servers
        self._drivers = drivers or DriverRegistry()
        self._scanner = scanner or SshScanner()
        self._clock = clock or WallClock()
        self._hostname = hostname or socket.gethostname()
        self._reservations = Reservations()
        self._stack = AsyncExitStack()
        self._view: ClusterView | None = None
        self._sweeper: Sweeper | None = None
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
            self._sweeper = Sweeper(self.store, self._view, self._clock, self.providers, self._age_limits())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def _age_limits(self) -> AgeLimits:
        ready = {label.name: float(label.max_ready_age) for label in self.config.labels}
        return AgeLimits(max_ready_age=ready, max_hold_age=float(self.config.max_hold_age or 0))

    # -- health -----------------------------------------------------------------------------------------------------

    def readiness(self) -> list[str]:
        """Why the launcher can't take requests just now, one reason a line; empty: it can."""
        reasons = []
        if self._draining:
            reasons.append("draining")
        if self.store.session.state is not SessionState.CONNECTED:
            reasons.append(f"store: {self.store.session.state.value}")
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
        for pool in self.pools.values():
            pool.wake()

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled, or until `drain` is through."""
        sweeper = self._sweeper
        if sweeper is None:
            raise RuntimeError("the launcher is not open: use it with 'async with'")
        wanted = {label.name: label.min_ready for label in self.config.labels}
        min_ready = MinReady(self.store, self.view, self._clock, wanted)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._supervise(name, run), name=name)
                for name, run in (
                    ("component", self._keep_registered),
                    ("sweeper", sweeper.run),
                    ("min-ready", min_ready.run),
                    *((f"provider {p.name}", self._provider_task(p)) for p in self.config.providers),
                )
            ]
            await self._stopping.wait()
            for task in tasks:
                task.cancel()

    async def drain(self, grace_s: float = DRAIN_GRACE_S) -> None:
        """End in order: take nothing more, let running requests finish for *grace_s*, hand the rest back, finish
        deletions that are under way; then `run` returns."""
        if self._draining:
            return
        self._draining = True
        log.info("draining", grace_s=grace_s)
        try:
            async with asyncio.timeout(grace_s + DRAIN_LIMIT_S):
                await asyncio.gather(*(pool.drain(grace_s) for pool in self.pools.values()))
                if self._sweeper is not None:
                    await self._sweeper.settled()
        except TimeoutError:
            log.warning("drain_incomplete", detail="what is left is mended by the next launcher")
        finally:
            self._stopping.set()

    def _provider_task(self, config: ProviderConfig) -> Callable[[], Awaitable[None]]:
        return lambda: self._serve_provider(config)

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
            except* StoreError as group:
                log.warning("task_failed", task=name, detail="; ".join(map(str, group.exceptions)), retry_in_s=backoff)
            except* Exception:
                log.exception("task_failed", task=name, retry_in_s=backoff)
            if loop.time() - started > LAST_BACKOFF_S:
                backoff = FIRST_BACKOFF_S
            await asyncio.sleep(backoff)
            backoff = min(LAST_BACKOFF_S, backoff * 2)

    async def _serve_provider(self, config: ProviderConfig) -> None:
        """Everything of one provider, until cancelled or drained."""
        images = {image.name: image for image in self.config.diskimages}
        cluster = StoreCluster(self.store, self.view, self._clock)
        context = DriverContext(scanner=self._scanner, diskimages=images, cluster=cluster)
        driver = self._drivers.get(config.driver).open(config, context)
        provider = ProviderRuntime(config, driver, self.view)
        self.providers[config.name] = provider
        if self._sweeper is not None:
            self._sweeper.provider_started(config.name)
        pools = [self._make_pool(provider, index) for index in range(len(config.pools))]
        for pool in pools:
            self.pools[config.name, pool.ctx.pool.name] = pool
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(provider.run(), name=f"knowing {config.name}")
                if isinstance(driver, SupportsInventory):
                    inventory = Inventory(self.store, self.view, self._clock, provider)
                    group.create_task(inventory.run(), name=f"inventory {config.name}")
                if isinstance(driver, SupportsUpkeep):
                    name = f"upkeep {config.name}"
                    group.create_task(self._supervise(name, driver.upkeep), name=name)
                for pool in pools:
                    name = f"pool {config.name}/{pool.ctx.pool.name}"
                    group.create_task(self._supervise(name, pool.run), name=name)
        finally:
            with suppress(TimeoutError):
                await provider.aclose()

    def _make_pool(self, provider: ProviderRuntime, index: int) -> Pool:
        pool = provider.config.pools[index]
        ctx = PoolContext(
            store=self.store,
            view=self.view,
            clock=self._clock,
            scanner=self._scanner,
            provider=provider,
            pool=pool,
            pool_id=f"{self._hostname}-PoolWorker.{provider.name}-{pool.name}-{uuid.uuid4().hex}",
            reservations=self._reservations,
        )
        tenants = {tenant.tenant_name: tenant.limits() for tenant in self.config.tenant_resource_limits}
        return Pool(ctx, PoolIdentity(self._hostname, __version__), tenants, may_decline=self._may_decline)

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
