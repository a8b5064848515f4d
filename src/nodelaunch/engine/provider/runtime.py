"""One provider at run time: its driver, what is known of its cloud, and how many launches run.

All of it is known beforehand and refreshed beside the work, so that deciding on a request never waits for a cloud.
What is asked is in cloudfacts.py, what follows when the cloud has no room in refusals.py.
What does *not* belong here: deciding, launching, records.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
    ScansHostKeys,
    SupportsConsoleLog,
    SupportsFencing,
    SupportsInventory,
)
from nodelaunch.protocol.events import RequestNoted
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.quota import Usage

log: Logger = get_logger(__name__)

REFRESH_S = 300.0
"""How old limits and foreign usage may get while all goes well."""
IMAGE_WAIT_S = 3600.0
"""How long after a builder began it, requests wait for the first image of a label before they are declined."""


@dataclass(eq=False, slots=True)
class Generation:
    """A provider's configuration and the driver made from it. What was begun under one ends under it."""

    config: ProviderConfig
    driver: Driver
    users: int = 0
    upkeep: asyncio.Task[None] | None = None
    """The driver's own work, which goes on as long as it is used."""
    launching: Launching = field(init=False)
    """How nodes are launched. It is asked for several times a launch, and a configuration takes its time to say."""
    inventory: SupportsInventory | None = field(init=False)
    """The driver, if its machines exist already. This and the next are asked for once: the question is slow."""
    key_scanner: ScansHostKeys | None = field(init=False)
    console: SupportsConsoleLog | None = field(init=False)
    fencing: SupportsFencing | None = field(init=False)

    def __post_init__(self) -> None:
        driver = self.driver
        self.launching = self.config.launching
        self.inventory = driver if isinstance(driver, SupportsInventory) else None
        self.key_scanner = driver if isinstance(driver, ScansHostKeys) else None
        self.fencing = driver if isinstance(driver, SupportsFencing) else None
        self.console = driver if isinstance(driver, SupportsConsoleLog) else None


class ProviderRuntime:
    """What the engine knows of one provider. `run` keeps it fresh; `renew` gives it another configuration."""

    def __init__(
        self, config: ProviderConfig, driver: Driver, view: ClusterView, events: EventHub | None = None
    ) -> None:
        self.name: str = config.name
        self.events: EventHub = events or EventHub()
        """Told what happens here."""
        self.current: Generation = Generation(config, driver)
        self.cloud: CloudFacts = CloudFacts()
        """As of the last successful `refresh`."""
        self.down: str | None = "it has not answered yet"
        """Why the cloud can't be asked; None while it can."""
        self.is_failing: bool = False
        """Whether it was asked, and failed."""
        self.is_ending = False
        """Whether nobody needs to know anything of it any more."""
        self.running_launches = 0
        self.listeners: list[Callable[[], None]] = []
        """Called when anything known here changed."""
        self.refusals: QuotaRefusals = QuotaRefusals(self.changed)
        self.awaited: AwaitedRefresh = AwaitedRefresh(self.invalidate)
        """Pools in which requests wait for room that the cloud has not got."""
        self.owners: Owners = Owners(config.name, view)
        self.breakers: ProviderBreakers = ProviderBreakers(
            config.name, on_change=self.changed, ask=self.invalidate, events=self.events
        )
        self._view = view
        self._stale = asyncio.Event()

    def tell(self, pool: str | None, request_id: RequestId | str | None, what: str) -> None:
        """Let it be known what the cloud did to a request in one of the provider's pools."""
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
        """Whether it was asked for something and has not answered since."""
        return (self.is_failing and self.down is not None) or self.breakers.launches.is_open

    @property
    def can_launch(self) -> bool:
        """False where the driver only has machines that already exist."""
        return self.current.inventory is None

    async def renew(self, config: ProviderConfig, driver: Driver) -> None:
        """Go on with *config* and *driver*; the old driver is closed once nobody uses it any more."""
        old, self.current = self.current, Generation(config, driver)
        self.down = "its configuration changed and it has not answered since"
        self.breakers.forget()
        self._stale.set()
        self.changed()
        await self._close_if_unused(old)

    @asynccontextmanager
    async def using(self, generation: Generation | None = None) -> AsyncIterator[Driver]:
        """Keep the driver of *generation*, the current one by default, from being closed meanwhile."""
        generation = generation or self.current
        generation.users += 1
        try:
            yield generation.driver
        finally:
            generation.users -= 1
            await self._close_if_unused(generation)

    async def _close_if_unused(self, generation: Generation) -> None:
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
        """What is known of the labels *pool* offers with the *driver* of its generation.

        A diskimage counts as there while it has a ready upload, and as on its way while a builder is at its first.
        """
        views: dict[str, LabelView] = {}
        for label in pool.label_names:
            known = self.cloud.label(pool.name, label)
            image = driver.label_traits(pool.name, label).diskimage
            if image is not None and self._view.newest_upload(image, self.name) is None:
                begun_at = self._view.image_begun_at(image, self.name)
                arrives_by = None if begun_at is None else begun_at + IMAGE_WAIT_S
                known = LabelView(known.need, is_ready=False, broken=known.broken, arrives_by=arrives_by)
            if (allowed := pool.tenants_of(label)) is not None:
                known = replace(known, allowed=allowed)
            views[label] = known
        return views

    def need(self, pool: str, label: str) -> Usage:
        """What one node takes."""
        return self.cloud.label(pool, label).need

    # -- refusals: the cloud said no although there seemed to be room -----------------------------------------------

    def quota_refused(self) -> None:
        """The cloud refused for lack of quota: ask it again what there is, and don't try again at once."""
        self.refusals.refused()
        self.invalidate()

    def quota_granted(self) -> None:
        """An instance was created: there is room after all."""
        if self.refusals.pause_s:
            self.refusals.granted()

    def capacity_freed(self) -> None:
        """Something of ours is gone. While nothing is refused, what is gone from the records is counted from there."""
        if self.refusals.is_active:
            self.refusals.retry()

    # -- knowing ----------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """What is known of limits is doubtful; ask again soon."""
        self._stale.set()

    def label_broken(self, pool: str, label: str, detail: str) -> None:
        """The label can't be launched until something changes; asked again with the next refresh."""
        self.cloud = self.cloud.with_broken_label(pool, label, detail)
        self.changed()

    async def run(self) -> None:
        """Keep what is known fresh. Ends when it is cancelled, or `is_ending`: a driver may keep the former from us."""
        while not self.is_ending:
            await self._view.warm()
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
        """Until when not to ask again, in seconds."""
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
        """Until it is time, or what is known is doubtful. A provider that is away is not asked sooner for a doubt,
        only for another configuration."""
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
        """Ask the cloud for its limits, what others use of them, its zones, and what each label takes.

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
        """The instances that carry this provider's name, by the node id they carry."""
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
        """Tell whoever listens that something known here, or counted against it, changed."""
        for listener in tuple(self.listeners):
            listener()

    async def aclose(self) -> None:
        """Close the current driver. Raises: TimeoutError."""
        self.refusals.close()
        self.awaited.close()
        self.breakers.close()
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await self.driver.aclose()
