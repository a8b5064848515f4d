"""One provider at run time: its driver, what is known of its limits and labels, and how many launches run.

All of it is known beforehand and refreshed beside the work, so that deciding on a request never waits for a cloud.
What does *not* belong here: deciding, launching, records.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import structlog

from nodelaunch.config.models import PoolConfig, ProviderConfig
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import DriverError, LabelUnusableError
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_PROVIDER,
    Driver,
    ExternalId,
    Instance,
    SupportsInventory,
)
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.triage import LabelView

log = structlog.get_logger(__name__)

REFRESH_S = 300.0
"""How old limits and foreign usage may get while all goes well."""
CALL_TIMEOUT_S = 60.0
"""For each call that asks the cloud about itself."""
FIRST_BACKOFF_S, LAST_BACKOFF_S = 1.0, 60.0


class ProviderRuntime:
    """What the engine knows of one provider. `run` keeps it fresh."""

    def __init__(self, config: ProviderConfig, driver: Driver, view: ClusterView) -> None:
        self.config = config
        self.name = config.name
        self.driver = driver
        self.limits: Limits = NO_LIMITS
        self.unmanaged: Usage = NOTHING
        """Taken by instances that no record explains."""
        self.down: str | None = "it has not answered yet"
        """Why the cloud can't be asked; None while it can."""
        self.running_launches = 0
        self.listeners: list[Callable[[], None]] = []
        """Called when anything known here changed."""
        self._view = view
        self._labels: dict[tuple[str, str], LabelView] = {}
        self._stale = asyncio.Event()
        self._refusals = 0
        self._refused_until: float | None = None
        self._resume: asyncio.TimerHandle | None = None

    @property
    def can_launch(self) -> bool:
        """False where the driver only has machines that already exist."""
        return not isinstance(self.driver, SupportsInventory)

    def label_views(self, pool: PoolConfig) -> dict[str, LabelView]:
        """What is known of the labels *pool* offers; a diskimage counts as there while it has a ready upload."""
        views: dict[str, LabelView] = {}
        for label in pool.label_names:
            known = self._labels.get((pool.name, label), LabelView())
            image = self.driver.label_traits(pool.name, label).diskimage
            if image is not None and self._view.newest_upload(image, self.name) is None:
                known = LabelView(known.need, is_ready=False, broken=known.broken)
            views[label] = known
        return views

    def need(self, pool: str, label: str) -> Usage:
        """What one node takes."""
        return self._labels.get((pool, label), LabelView()).need

    # -- refusals: the cloud said no although there seemed to be room -----------------------------------------------

    def quota_refused(self) -> None:
        """The cloud refused for lack of quota: ask it again what there is, and don't try again at once."""
        delay = min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2**self._refusals)
        self._refusals += 1
        loop = asyncio.get_running_loop()
        self._refused_until = loop.time() + delay
        if self._resume is not None:
            self._resume.cancel()
        self._resume = loop.call_later(delay, self.capacity_freed)
        self.invalidate()

    def quota_granted(self) -> None:
        """An instance was created: there is room after all."""
        self._refusals = 0
        self._refused_until = None

    def capacity_freed(self) -> None:
        """Something of ours is gone, or the time to try again has come."""
        self._refused_until = None
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self._changed()

    @property
    def is_refused(self) -> bool:
        return self._refused_until is not None

    # -- knowing ----------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """What is known of limits is doubtful; ask again soon."""
        self._stale.set()

    def label_broken(self, pool: str, label: str, detail: str) -> None:
        """The label can't be launched until something changes; asked again with the next refresh."""
        known = self._labels.get((pool, label), LabelView())
        self._labels[pool, label] = LabelView(known.need, known.is_ready, detail)
        self._changed()

    async def run(self) -> None:
        """Keep what is known fresh, for ever."""
        backoff = FIRST_BACKOFF_S
        while True:
            await self._view.warm()
            try:
                await self.refresh()
            except (DriverError, TimeoutError) as error:
                self._set_down(str(error) or f"no answer within {CALL_TIMEOUT_S:g} s")
                delay, backoff = backoff, min(LAST_BACKOFF_S, backoff * 2)
            else:
                self._set_down(None)
                delay, backoff = REFRESH_S, FIRST_BACKOFF_S
                self._stale.clear()
            await self._sleep(delay, until_stale=self.down is None)

    async def _sleep(self, delay_s: float, *, until_stale: bool) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await (self._stale.wait() if until_stale else asyncio.Event().wait())
        except TimeoutError:
            pass

    async def refresh(self) -> None:
        """Ask the cloud for its limits, what others use of them, and what each label takes.

        Raises: DriverError, TimeoutError.
        """
        async with asyncio.timeout(CALL_TIMEOUT_S):
            limits = await self.driver.quota_limits()
            unmanaged = await self._foreign_usage()
            labels = {
                (pool.name, label): await self._ask_label(pool.name, label)
                for pool in self.config.pools
                for label in pool.label_names
            }
        self.limits, self.unmanaged, self._labels = limits, unmanaged, labels
        self._changed()

    async def _ask_label(self, pool: str, label: str) -> LabelView:
        try:
            need = await self.driver.quota_for_label(pool, label)
            return LabelView(need, await self.driver.label_ready(pool, label))
        except LabelUnusableError as error:
            return LabelView(broken=str(error))

    async def _foreign_usage(self) -> Usage:
        if not self.can_launch:
            return NOTHING
        foreign = [i async for i in self.driver.list_instances() if not self._is_recorded(i)]
        return Usage.total(instance.resources or Usage({INSTANCES: 1}) for instance in foreign)

    def _is_recorded(self, instance: Instance) -> bool:
        mine = instance.metadata.get(METADATA_PROVIDER) == self.name
        return mine and instance.metadata.get(METADATA_NODE_ID) in self._view.nodes

    async def instances_by_node(self) -> dict[str, list[ExternalId]]:
        """The instances that carry this provider's name, by the node id they carry."""
        found: defaultdict[str, list[ExternalId]] = defaultdict(list)
        async for instance in self.driver.list_instances():
            if instance.metadata.get(METADATA_PROVIDER) == self.name:
                found[instance.metadata.get(METADATA_NODE_ID, "")].append(instance.external_id)
        return dict(found)

    def _set_down(self, why: str | None) -> None:
        if why != self.down:
            if why is not None:
                log.warning("provider_unavailable", provider=self.name, detail=why)
            elif self._labels:
                log.info("provider_available", provider=self.name)
            self.down = why
            self._changed()

    def _changed(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    async def aclose(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await self.driver.aclose()
