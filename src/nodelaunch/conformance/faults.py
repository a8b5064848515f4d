"""Faults: access to a driver's cloud besides the driver, with which checks break the cloud and read its state.

The author of a test provides them, or the driver itself by its capability ``faults``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from nodelaunch.protocol.driver import (
    BOOT_HELD,
    FOREIGN_INSTANCE,
    LIST_LAGS,
    ExternalId,
    FaultOffer,
    SupportsFaults,
)

Resources = Mapping[str, str | None]
"""All resources of a cloud (instances, volumes, addresses) by name, each with the id of its instance."""
Situation = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudFaults:
    """All faults are optional. A context manager sets a fault and clears it at its end."""

    resources: Callable[[], Awaitable[Resources]] | None = None
    """The present resources according to the cloud itself."""
    foreign_instance: Callable[[], AbstractAsyncContextManager[ExternalId]] | None = None
    """Adds an instance of another user, without metadata of the launcher."""
    boot_held: Situation | None = None
    """Instances made in the block boot only after it."""
    list_lags: Situation | None = None
    """The cloud lists instances made in the block only after it."""
    named: Mapping[str, Situation] = field(default_factory=dict)
    """Other faults by name: in the block some calls fail, and none hangs."""
    offers: Mapping[str, FaultOffer] = field(default_factory=dict)
    """The call that fails and the kind of error, by the name in ``named``, where they are known."""


async def faults_of(driver: SupportsFaults) -> CloudFaults:
    """Return the faults that *driver* offers; it has to stay open during their use. Raises: DriverError."""
    offers = {offer.name: offer for offer in await driver.faults()}

    def situation(name: str) -> Situation | None:
        return partial(_set, driver, name) if name in offers else None

    special = (BOOT_HELD, FOREIGN_INSTANCE, LIST_LAGS)
    named = {name: offer for name, offer in offers.items() if name not in special}
    return CloudFaults(
        resources=driver.cloud_resources,
        foreign_instance=partial(_foreign, driver) if FOREIGN_INSTANCE in offers else None,
        boot_held=situation(BOOT_HELD),
        list_lags=situation(LIST_LAGS),
        named={name: partial(_set, driver, name) for name in named},
        offers=named,
    )


@asynccontextmanager
async def _set(driver: SupportsFaults, name: str) -> AsyncIterator[None]:
    await driver.set_fault(name)
    try:
        yield
    finally:
        await driver.clear_fault(name)


@asynccontextmanager
async def _foreign(driver: SupportsFaults) -> AsyncIterator[ExternalId]:
    external_id = await driver.set_fault(FOREIGN_INSTANCE)
    try:
        yield external_id or ExternalId("")
    finally:
        await driver.clear_fault(FOREIGN_INSTANCE)
