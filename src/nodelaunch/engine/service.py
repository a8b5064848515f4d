"""Runs a provider as one task: its driver, its facts, its pools, its inventory.

`run` it (again after each failure), `apply` another configuration while it runs, `retire` it when it is not configured
any more. providers.py has the services of all providers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from nodelaunch.clock import Clock
from nodelaunch.config.models import PoolConfig, ProviderConfig
from nodelaunch.decisions.quarantine import Guard
from nodelaunch.engine.events import EventHub
from nodelaunch.engine.fleet.presence import KnownPools
from nodelaunch.engine.limits.sharing import SharedCapacity, TenantLedgers
from nodelaunch.engine.nodelocks import PoolContext
from nodelaunch.engine.provider.hostwatch import HostWatch
from nodelaunch.engine.provider.runtime import Generation, ProviderRuntime
from nodelaunch.engine.serve.pool import Pool, PoolIdentity
from nodelaunch.engine.serve.scheduler import Scheduler
from nodelaunch.engine.supervision import supervise
from nodelaunch.engine.supply.inventory import Inventory
from nodelaunch.engine.view import ClusterView, ViewSynced
from nodelaunch.errors import DriverError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import Driver, HostScanner, SupportsInventory, SupportsUpkeep
from nodelaunch.protocol.store import Store

log: Logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SharedServices:
    """The objects that all providers of a launcher share."""

    store: Store
    view: ClusterView
    clock: Clock
    scanner: HostScanner
    scheduler: Scheduler
    memory: KnownPools
    tenants: TenantLedgers
    identity: PoolIdentity
    guard: Guard
    """Counts the failing machines of all providers."""
    own_id: str
    """The id under which this process is present."""
    open_driver: Callable[[ProviderConfig], Driver]
    """Returns the driver of a provider. Raises: DriverError."""
    new_pool_id: Callable[[str, str], str]
    """Returns the pool id for a provider and a pool."""
    changed: Callable[[], None]
    """Called when pools were added or removed."""
    drained: Callable[[], None]
    """Called when a removed pool has ended: no pool of this process hands out its nodes any more."""
    events: EventHub


class ProviderService:
    """The service of one provider of a launcher."""

    def __init__(self, site: SharedServices, config: ProviderConfig) -> None:
        self.config: ProviderConfig = config
        """The provider as configured; the configuration in force may be older while its driver can't be created."""
        self.runtime: ProviderRuntime | None = None
        self.pools: dict[str, Pool] = {}
        self._site = site
        self._shared = SharedCapacity(
            site.store, site.view, config.name, site.own_id, site.tenants, site.scheduler.facts.books
        )
        self._inventory: Inventory | None = None
        self._group: asyncio.TaskGroup | None = None
        self._revived = asyncio.Event()
        self._revived.set()
        """Unset while the provider is not configured any more."""
        self._draining: set[asyncio.Task[None]] = set()
        self._log = log.bind(provider=config.name)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def is_at_work(self) -> bool:
        """True if nodes may be created: also while removed pools finish their requests."""
        return bool(self.pools or self._draining)

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled. Raises: DriverError, and any unexpected error; all resources are released then."""
        runtime = ProviderRuntime(self.config, self._site.open_driver(self.config), self._site.view, self._site.events)
        self.runtime = runtime
        stop_following = self._shared.open()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(runtime.run(), name=f"knowing {self.name}")
                if isinstance(runtime.driver, SupportsInventory):
                    hosts = runtime.breakers.hosts = HostWatch(
                        self.name, self._site.view, runtime.using, self._site.guard
                    )
                    self._inventory = Inventory(self._site.store, self._site.view, self._site.clock, runtime, hosts)
                    self._start("hosts", hosts.run)
                    self._start("inventory", self._inventory.run)
                    if self._is_retired:
                        self._inventory.stop()
                self._begin_upkeep(runtime.current)
                for pool in () if self._is_retired else runtime.config.pools:
                    self._add_pool(pool)
                self._site.changed()
        finally:
            stop_following()
            self._group = self._inventory = self.runtime = None
            self.pools.clear()
            self._site.changed()
            with suppress(TimeoutError):
                await runtime.aclose()

    def _start(self, what: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None] | None:
        if self._group is None:
            return None
        return self._group.create_task(supervise(f"{what} {self.name}", run))

    def _begin_upkeep(self, generation: Generation) -> None:
        if isinstance(generation.driver, SupportsUpkeep):
            generation.upkeep = self._start("upkeep", generation.driver.upkeep)

    def _add_pool(self, config: PoolConfig) -> None:
        runtime = self.runtime
        assert runtime is not None  # noqa: S101
        ctx = PoolContext(
            store=self._site.store,
            view=self._site.view,
            clock=self._site.clock,
            scanner=self._site.scanner,
            provider=runtime,
            generation=runtime.current,
            pool=config,
            pool_id=self._site.new_pool_id(self.name, config.name),
            shared=self._shared,
        )
        pool = Pool(ctx, self._site.identity, self._site.scheduler, absent=self._site.memory.absent)
        self.pools[config.name] = pool
        self._start(f"pool {config.name} of", pool.run)

    # -- changing ---------------------------------------------------------------------------------------------------

    async def apply(self, config: ProviderConfig, *, is_changed: bool, grace_s: float) -> None:
        """Use *config* from now on: new pools are started, removed ones are drained within *grace_s*, others continue
        with their new settings. Running work ends under the old configuration.

        If a driver can't be created, the configuration in force stays; the next start of the provider tries again.
        *is_changed*: True if any setting that affects the driver changed.
        """
        self._revived.set()
        self.config = config
        runtime = self.runtime
        if runtime is None:
            return  # between two tries of `run`, which starts with the present configuration
        if is_changed and not await self._renew(runtime, config):
            return
        self._change_pools(runtime, grace_s)
        if self._inventory is not None:
            self._inventory.renew()
        self._site.changed()

    async def _renew(self, runtime: ProviderRuntime, config: ProviderConfig) -> bool:
        try:
            driver = self._site.open_driver(config)
        except DriverError as error:
            self._log.error("provider_not_changed", detail=str(error))
            return False
        await runtime.renew(config, driver)
        self._begin_upkeep(runtime.current)
        return True

    def _change_pools(self, runtime: ProviderRuntime, grace_s: float) -> None:
        wanted = {pool.name: pool for pool in runtime.config.pools}
        for name in [name for name in self.pools if name not in wanted]:
            self._drain_pool(name, grace_s)
        for name, config in wanted.items():
            if name in self.pools:
                self.pools[name].renew(config)
            else:
                self._add_pool(config)

    def _drain_pool(self, name: str, grace_s: float) -> None:
        pool = self.pools.pop(name)

        async def drain() -> None:
            await pool.drain(grace_s)
            await self._forget(name)

        def drained(task: asyncio.Task[None]) -> None:
            self._draining.discard(task)
            self._site.changed()
            self._site.drained()

        task = asyncio.ensure_future(drain())
        self._draining.add(task)
        task.add_done_callback(drained)

    async def _forget(self, pool: str) -> None:
        """Forget a pool that was removed on purpose, so that its return is not awaited, unless another launcher
        has it."""
        others = (seen.record for seen in self._site.view.pools.values())
        if any((r.provider_name, r.name) == (self.name, pool) for r in others):
            return
        try:
            await self._site.memory.forget(self.name, pool)
        except StoreError as error:
            self._log.info("pool_not_forgotten", pool=pool, detail=str(error))

    def retire(self, grace_s: float) -> None:
        """Accept no more requests: the provider is not configured any more.

        Running work has *grace_s* seconds to finish before it is handed back. Nodes in use are deleted when they are
        returned, idle ones unless another launcher serves the pool.
        """
        self._revived.clear()
        for name in list(self.pools):
            self._drain_pool(name, grace_s)
        if self._inventory is not None:
            self._inventory.stop()
        self._site.changed()

    async def retired(self) -> bool:
        """Wait until nothing of a retiring provider is left, or until it is configured again. Return True in the first
        case: `run` may be ended. Raises: StoreError."""
        emptied = asyncio.ensure_future(self._emptied())
        revived = asyncio.ensure_future(self._revived.wait())
        try:
            done, _ = await asyncio.wait({emptied, revived}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            emptied.cancel()
            revived.cancel()
        if emptied in done:
            emptied.result()
        return self._is_retired

    @property
    def _is_retired(self) -> bool:
        return not self._revived.is_set()

    async def _emptied(self) -> None:
        """Wait until no work, no node and no resource of the driver is left."""
        await asyncio.gather(*self._draining)
        runtime = self.runtime
        if runtime is not None and isinstance(runtime.driver, SupportsUpkeep):
            bare = self.config.model_copy(update={"pools": ()})
            await self._renew(runtime, bare)
        await self._nodes_gone()
        if runtime is not None and isinstance(runtime.driver, SupportsUpkeep):
            await runtime.driver.emptied()

    async def _nodes_gone(self) -> None:
        changed = asyncio.Event()
        view = self._site.view
        stops = [
            view.subscribe_to_provider(self.name, lambda _event: changed.set()),
            view.subscribe(lambda _event: changed.set(), ViewSynced),
        ]
        try:
            while view.nodes_of(self.name) or not view.is_synced:
                changed.clear()
                await changed.wait()
        finally:
            for stop in stops:
                stop()

    def end(self, task: asyncio.Task[None]) -> None:
        """Cancel *task*, in which the provider runs."""
        if self.runtime is not None:
            self.runtime.is_ending = True
        task.cancel()

    async def drain(self, grace_s: float) -> None:
        """Accept no more requests, and release everything, in order."""
        await asyncio.gather(*(pool.drain(grace_s) for pool in self.pools.values()), *self._draining)
