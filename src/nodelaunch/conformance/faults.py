"""Ways to a driver's cloud besides the driver: how a check breaks it, and sees what there is.

They are given by whoever checks a driver, or come from the driver itself, by its capability ``faults``.
What does *not* belong here: what is done with them (the checks).
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
"""Everything there is in a cloud by its name (instances, volumes, addresses), and the instance each belongs to."""
Situation = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudFaults:
    """All are optional; a context manager undoes what it did."""

    resources: Callable[[], Awaitable[Resources]] | None = None
    """What there is just now, by the cloud's own account."""
    foreign_instance: Callable[[], AbstractAsyncContextManager[ExternalId]] | None = None
    """An instance that somebody else made, without metadata of ours."""
    boot_held: Situation | None = None
    """Instances made meanwhile boot only when it is left."""
    list_lags: Situation | None = None
    """Instances made meanwhile are listed by the cloud only when it is left."""
    named: Mapping[str, Situation] = field(default_factory=dict)
    """Named ways in which the cloud fails meanwhile: some calls are refused, none hangs."""
    offers: Mapping[str, FaultOffer] = field(default_factory=dict)
    """What is known of these: which call fails, and with which kind of error."""


async def faults_of(driver: SupportsFaults) -> CloudFaults:
    """Those that *driver* offers, which has to stay open meanwhile. Raises: DriverError."""
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
