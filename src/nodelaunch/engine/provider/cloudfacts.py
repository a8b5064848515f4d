"""A cloud's answers about itself: its limits, others' usage, its zones, and the usage of each label."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nodelaunch.config.models import ProviderConfig
from nodelaunch.decisions.triage import LabelView
from nodelaunch.errors import LabelUnusableError
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_PROVIDER,
    Driver,
    Instance,
    SupportsInventory,
    SupportsZones,
)
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.soundness import sound_limits, sound_listed, sound_usage, sound_zones

T = TypeVar("T")

CALL_TIMEOUT_S = 60.0
"""Seconds for each question to the cloud about itself."""
UNKNOWN_LABEL = LabelView()


@dataclass(frozen=True, slots=True)
class CloudFacts:
    """The answers to one round of questions. Before the first round: no limits, and one instance for each label's
    node."""

    limits: Limits = NO_LIMITS
    unmanaged: Usage = NOTHING
    """Usage of instances without a record."""
    foreign: Usage = NOTHING
    """The part of ``unmanaged`` that other owners use: it does not become free, while leaked instances of this system
    are soon deleted."""
    zones: tuple[str, ...] = ()
    """Placement zones of the cloud, if its driver reports them; for pools that name none."""
    labels: Mapping[tuple[str, str], LabelView] = field(default_factory=dict)
    """Facts of labels, by pool and label."""

    def label(self, pool: str, label: str) -> LabelView:
        """Return the facts of the label in the pool."""
        return self.labels.get((pool, label), UNKNOWN_LABEL)

    def with_broken_label(self, pool: str, label: str, detail: str) -> CloudFacts:
        """Return these facts with the label marked as not launchable in the pool, with the reason."""
        known = self.label(pool, label)
        broken = LabelView(known.need, known.is_ready, detail)
        return replace(self, labels={**self.labels, (pool, label): broken})


async def ask_cloud(driver: Driver, config: ProviderConfig, recorded: Container[str]) -> CloudFacts:
    """Ask the cloud of provider *config* all questions. *recorded*: the ids of all nodes that have a record.

    Raises: DriverError; TimeoutError if a call takes more than `CALL_TIMEOUT_S`.
    """
    limits = sound_limits(await _answered(driver.quota_limits()))
    unmanaged, foreign = await _answered(_unrecorded_usage(driver, config.name, recorded))
    zones = sound_zones(await _answered(driver.zones())) if isinstance(driver, SupportsZones) else ()
    labels = {
        (pool.name, label): await _answered(_ask_label(driver, pool.name, label))
        for pool in config.pools
        for label in pool.label_names
    }
    return CloudFacts(limits, unmanaged, foreign, zones, labels)


async def listed(driver: Driver) -> AsyncIterator[Instance]:
    """Yield every instance that the credentials can see. Raises: DriverError, also for an invalid instance."""
    async for instance in driver.list_instances():
        yield sound_listed(instance)


async def _answered(call: Awaitable[T]) -> T:
    async with asyncio.timeout(CALL_TIMEOUT_S):
        return await call


async def _unrecorded_usage(driver: Driver, provider: str, recorded: Container[str]) -> tuple[Usage, Usage]:
    """Return the usage of instances without a record, and the part of it that others use."""
    if isinstance(driver, SupportsInventory):
        return NOTHING, NOTHING
    unrecorded, foreign = [], []
    async for instance in listed(driver):
        usage = instance.resources or Usage({INSTANCES: 1})
        is_mine = instance.metadata.get(METADATA_PROVIDER) == provider
        if not is_mine:
            foreign.append(usage)
        if not is_mine or instance.metadata.get(METADATA_NODE_ID) not in recorded:
            unrecorded.append(usage)
    return Usage.total(unrecorded), Usage.total(foreign)


async def _ask_label(driver: Driver, pool: str, label: str) -> LabelView:
    try:
        need = sound_usage(await driver.quota_for_label(pool, label))
        return LabelView(need, await driver.label_ready(pool, label))
    except LabelUnusableError as error:
        return LabelView(broken=str(error))
