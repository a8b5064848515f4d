"""A provider at run time: its driver, the facts of its cloud, and the number of its launches.

The facts are asked beforehand and refreshed in the background, so that a decision on a request never waits for a cloud.
cloudfacts.py asks the questions, refusals.py handles a cloud without capacity.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

from nodelaunch.config.models import Launching, PoolConfig, ProviderConfig
from nodelaunch.decisions.breaker import FailureCause
from nodelaunch.decisions.triage import LabelView
from nodelaunch.engine.events import EventHub
from nodelaunch.engine.provider.breakers import ProviderBreakers, cause_of
from nodelaunch.engine.provider.cloudfacts import CALL_TIMEOUT_S, CloudFacts, ask_cloud, listed
from nodelaunch.engine.provider.owners import Owners
from nodelaunch.engine.provider.refusals import AwaitedRefresh, QuotaRefusals
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import DriverError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_PROVIDER,
    Driver,
    ExternalId,
    SupportsConsoleLog,
    SupportsFencing,
    SupportsHostKeyScan,
    SupportsInventory,
)
from nodelaunch.protocol.events import RequestNoted
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import Usage

log: Logger = get_logger(__name__)

REFRESH_S = 300.0
"""Seconds after which limits and foreign usage are asked again while the provider answers."""
IMAGE_WAIT_S = 3600.0
"""Seconds after a builder's start for which requests wait for the first image of a label before they are declined."""


@dataclass(eq=False, slots=True)
class Generation:
    """A provider's configuration and the driver made from it. Work ends under the generation it started under."""

    config: ProviderConfig
    driver: Driver
    users: int = 0
    upkeep: asyncio.Task[None] | None = None
    """The task of the driver's own work, which runs as long as the driver is used."""
    launching: Launching = field(init=False)
    """The settings for launches. Read several times a launch, and slow to compute from the configuration."""
    inventory: SupportsInventory | None = field(init=False)
    """The driver, if its machines exist already. This and the next attribute are computed once: the check is slow."""
    key_scanner: SupportsHostKeyScan | None = field(init=False)
    console: SupportsConsoleLog | None = field(init=False)
    fencing: SupportsFencing | None = field(init=False)

    def __post_init__(self) -> None:
        driver = self.driver
        self.launching = self.config.launching
        self.inventory = driver if isinstance(driver, SupportsInventory) else None
        self.key_scanner = driver if isinstance(driver, SupportsHostKeyScan) else None
        self.fencing = driver if isinstance(driver, SupportsFencing) else None
        self.console = driver if isinstance(driver, SupportsConsoleLog) else None


class ProviderRuntime:
    """The engine's facts of one provider. `run` keeps them fresh; `renew` sets another configuration."""

    def __init__(
        self, config: ProviderConfig, driver: Driver, view: ClusterView, events: EventHub | None = None
    ) -> None:
        self.name: str = config.name
        self.events: EventHub = events or EventHub()
        """Receives the provider's events."""
        self.current: Generation = Generation(config, driver)
        self.cloud: CloudFacts = CloudFacts()
        """The answers of the last successful `refresh`."""
        self.down: str | None = "it has not answered yet"
        """The reason why the cloud can't be asked; None while it can."""
        self.is_failing: bool = False
        """True if the provider was asked, and failed."""
        self.is_ending = False
        """True if no part of the launcher needs its facts any more."""
        self.running_launches = 0
        self.listeners: list[Callable[[], None]] = []
        """Called when any of these facts changed."""
        self.refusals: QuotaRefusals = QuotaRefusals(self.changed)
        self.awaited: AwaitedRefresh = AwaitedRefresh(self.invalidate)
        """Pools in which requests wait for capacity that the cloud does not have."""
        self.owners: Owners = Owners(config.name, view)
        self.breakers: ProviderBreakers = ProviderBreakers(
            config.name, on_change=self.changed, ask=self.invalidate, events=self.events
        )
        self._view = view
        self._stale = asyncio.Event()

    def report(self, pool: str | None, request_id: RequestId | str | None, what: str) -> None:
        """Emit an event about a cloud's effect on a request in one of the provider's pools."""
        if pool is not None and request_id is not None:
            self.events.emit(RequestNoted(self.events.now(), RequestId(request_id), self.name, pool, what))

    @property
    def config(self) -> ProviderConfig:
        return self.current.config

    @property
    def driver(self) -> Driver:
        return self.current.driver

    @property
    def is_away(self) -> bool:
        """True if the provider was asked and has not answered since."""
        return (self.is_failing and self.down is not None) or self.breakers.launches.is_open

    @property
    def can_launch(self) -> bool:
        """False if the driver only has machines that already exist."""
        return self.current.inventory is None

    async def renew(self, config: ProviderConfig, driver: Driver) -> None:
        """Use *config* and *driver* from now on; the old driver is closed when no work uses it any more."""
        old, self.current = self.current, Generation(config, driver)
        self.down = "its configuration changed and it has not answered since"
        self.breakers.forget()
        self._stale.set()
        self.changed()
        await self.close_if_unused(old)

    def using(self, generation: Generation | None = None) -> AbstractAsyncContextManager[Driver]:
        """Keep the driver of *generation*, the current one by default, from being closed meanwhile."""
        return _Use(self, generation or self.current)

    async def close_if_unused(self, generation: Generation) -> None:
        """Close the driver of *generation*, unless it is the current one or work uses it."""
        if generation is self.current or generation.users > 0:
            return
        if generation.upkeep is not None:
            generation.upkeep.cancel()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await generation.driver.aclose()
        except (DriverError, TimeoutError) as error:
            log.warning("driver_not_closed", provider=self.name, detail=str(error))

    def label_views(self, pool: PoolConfig, driver: Driver) -> dict[str, LabelView]:
        """Return the facts of the labels that *pool* offers with the *driver* of its generation.

        A diskimage is available while it has a ready upload, and on its way while a builder makes its first.
        """
        views: dict[str, LabelView] = {}
        for label in pool.label_names:
            known = self.cloud.label(pool.name, label)
            image = driver.label_traits(pool.name, label).diskimage
            if image is not None and self._view.newest_upload(image, self.name) is None:
                begun_at = self._view.image_begun_at(image, self.name)
                arrives_by = None if begun_at is None else begun_at + IMAGE_WAIT_S
                known = LabelView(known.need, is_ready=False, broken=known.broken, arrives_by=arrives_by)
            if (allowed_tenants := pool.tenants_of(label)) is not None:
                known = replace(known, allowed_tenants=allowed_tenants)
            views[label] = known
        return views

    def need(self, pool: str, label: str) -> Usage:
        """Return the usage of one node."""
        return self.cloud.label(pool, label).need

    # -- refusals: the cloud refused although there seemed to be capacity -------------------------------------------

    def quota_refused(self) -> None:
        """Note that the cloud refused for lack of quota: ask it for its limits, and pause launches."""
        self.refusals.refused()
        self.invalidate()

    def quota_granted(self) -> None:
        """Note that an instance was created: the cloud has capacity."""
        if self.refusals.pause_s:
            self.refusals.granted()

    def capacity_freed(self) -> None:
        """Note that an instance of this launcher was deleted. Without a refusal, the records show the free capacity."""
        if self.refusals.is_active:
            self.refusals.retry()

    # -- knowing ----------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """Ask for the limits again soon, because they are doubtful."""
        self._stale.set()

    def label_broken(self, pool: str, label: str, detail: str) -> None:
        """Note that the label can't be launched; the next refresh asks again."""
        self.cloud = self.cloud.with_broken_label(pool, label, detail)
        self.changed()

    async def run(self) -> None:
        """Keep the facts fresh. Ends when it is cancelled, or `is_ending`: a driver may swallow the cancellation."""
        while not self.is_ending:
            await self._view.synced()
            self._stale.clear()
            generation, began = self.current, asyncio.get_running_loop().time()
            try:
                await self.refresh()
            except (DriverError, TimeoutError) as error:
                why = str(error) or f"no answer within {CALL_TIMEOUT_S:g} s"
                delay = self._not_answered(generation, FailureCause(cause_of(error).kind, why))
            except Exception as error:
                log.exception("driver_broke", provider=self.name, call="refresh")
                cause = cause_of(error)
                why = f"its driver has a fault: {cause.kind}: {error}"
                delay = self._not_answered(generation, FailureCause(cause.kind, why))
            else:
                delay = REFRESH_S
                if generation is self.current:
                    self._answered(began)
            await self._sleep(delay, generation)

    def _not_answered(self, generation: Generation, cause: FailureCause) -> float:
        """Return the seconds until the next question."""
        questions = self.breakers.questions
        if generation is not self.current:
            return 0.0
        questions.probe(self.name)
        questions.failed(self.name, cause)
        self.breakers.launches.question_failed(cause)
        self._set_down(str(cause))
        return questions.next_in_s(self.name)

    def _answered(self, began: float) -> None:
        self.breakers.questions.succeeded(self.name, began)
        self.breakers.launches.question_answered(began)
        self._set_down(None)

    async def _sleep(self, delay_s: float, generation: Generation) -> None:
        """Sleep until the next question is due, or facts are doubtful. An unavailable provider is not asked earlier
        because of doubtful facts, only because of another configuration."""
        if self.is_ending:
            return
        try:
            async with asyncio.timeout(delay_s):
                while generation is self.current and (self.down is not None or not self._stale.is_set()):
                    await self._stale.wait()
                    if self.down is not None:
                        self._stale.clear()
        except TimeoutError:
            pass

    async def refresh(self) -> None:
        """Ask the cloud for its limits, others' usage, its zones, and the usage of each label.

        Raises: DriverError, TimeoutError.
        """
        generation = self.current
        async with self.using(generation) as driver:
            with self.events.calling(self.name, "refresh"):
                cloud = await ask_cloud(driver, generation.config, self._view.nodes)
        if generation is self.current:
            self.cloud = cloud
            zones = {*cloud.zones, *(zone for pool in self.config.pools for zone in pool.zones)}
            self.breakers.zones.forget(lambda zone: zone not in zones)
            self.changed()

    async def instances_by_node(self) -> dict[str, list[ExternalId]]:
        """Return the instances that carry this provider's name, by the node id they carry."""
        found: defaultdict[str, list[ExternalId]] = defaultdict(list)
        async with self.using() as driver:
            async for instance in listed(driver):
                if instance.metadata.get(METADATA_PROVIDER) == self.name:
                    found[instance.metadata.get(METADATA_NODE_ID, "")].append(instance.external_id)
        return dict(found)

    def _set_down(self, why: str | None) -> None:
        if why != self.down:
            self.down = why
            self.is_failing = why is not None
            self.changed()

    def changed(self) -> None:
        """Notify the listeners that a fact, or usage, of the provider changed."""
        for listener in tuple(self.listeners):
            listener()

    async def aclose(self) -> None:
        """Close the current driver. Raises: TimeoutError."""
        self.refusals.close()
        self.awaited.close()
        self.breakers.close()
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await self.driver.aclose()


class _Use(AbstractAsyncContextManager[Driver]):
    """The use of a generation's driver by work that starts under it."""

    __slots__ = ("_generation", "_runtime")

    def __init__(self, runtime: ProviderRuntime, generation: Generation) -> None:
        self._runtime = runtime
        self._generation = generation

    async def __aenter__(self) -> Driver:
        self._generation.users += 1
        return self._generation.driver

    async def __aexit__(self, *_error: object) -> None:
        self._generation.users -= 1
        if self._generation is not self._runtime.current:
            await self._runtime.close_if_unused(self._generation)
