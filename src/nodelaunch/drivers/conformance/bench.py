"""What a check works with: the driver under test, calls with deadlines, and a registry of what has to be cleaned up.

What does *not* belong here: what is right and wrong (checks.py).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nodelaunch.errors import DriverError, ErrorKind
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_POOL,
    METADATA_PROVIDER,
    Driver,
    ExternalId,
    Instance,
    InstanceSpec,
    SupportsInventory,
    SupportsUpkeep,
)

T = TypeVar("T")

Resources = Mapping[str, str | None]
"""Everything there is in a cloud by its name (instances, volumes, addresses), and the instance each belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Ways to the subject's cloud besides its driver. All are optional; a context manager undoes what it did."""

    resources: Callable[[], Awaitable[Resources]] | None = None
    """What there is just now, by the cloud's own account."""
    foreign_instance: Callable[[], AbstractAsyncContextManager[ExternalId]] | None = None
    """An instance that somebody else made, without metadata of ours."""
    boot_held: Callable[[], AbstractAsyncContextManager[None]] | None = None
    """Instances made meanwhile boot only when it is left."""
    faults: Mapping[str, Callable[[], AbstractAsyncContextManager[None]]] = field(default_factory=dict)
    """Named ways in which the cloud fails meanwhile: some calls are refused, none hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A driver to be checked, on a cloud that has room for ``concurrency`` instances."""

    name: str
    open: Callable[[], Driver]
    """Makes the driver; is called often, each time for another driver on the same cloud, and from any event loop."""
    pool: str
    label: str
    complete: Callable[[InstanceSpec], InstanceSpec] = lambda spec: spec
    """Adds to a spec what this cloud needs, such as the image to boot."""
    hooks: Hooks = field(default_factory=Hooks)
    deadline_s: float = 600.0
    """For each call; one that takes longer counts as hanging."""
    max_block_s: float = 0.5
    """How long a call may hold up the event loop before it counts as blocking it."""
    concurrency: int = 3
    """Calls of a kind at a time."""


class Violation(Exception):  # noqa: N818  it is a finding
    """The driver broke a rule: that of the check, unless *rule* names another."""

    def __init__(self, fault: str, *, rule: str | None = None) -> None:
        super().__init__(fault)
        self.rule = rule


class Skipped(Exception):  # noqa: N818  it is an outcome
    """The check can't be made; the message says what it would take."""


def require(holds: bool, fault: str) -> None:
    if not holds:
        raise Violation(fault)


class Bench:
    """One check's workplace. Whatever it makes through here is deleted, and closed, by `clean_up`."""

    def __init__(self, subject: Subject, run_id: str, numbers: itertools.count[int]) -> None:
        self.subject = subject
        self.hooks = subject.hooks
        self.run_id = run_id
        self._numbers = numbers
        self._drivers: list[Driver] = []
        self._upkeep: dict[Driver, asyncio.Task[None]] = {}
        self._made: dict[ExternalId, None] = {}
        self.driver = self.open()

    @property
    def makes_instances(self) -> bool:
        return not isinstance(self.driver, SupportsInventory)

    # -- making things ----------------------------------------------------------------------------------------------

    def open(self) -> Driver:
        """Another driver on the same cloud, with its upkeep running as under the engine."""
        driver = self.subject.open()
        self._drivers.append(driver)
        if isinstance(driver, SupportsUpkeep):
            self._upkeep[driver] = asyncio.create_task(driver.upkeep())
        return driver

    def spec(self) -> InstanceSpec:
        """What the engine would ask for, for a node that never was before. Raises: Skipped for an inventory."""
        if not self.makes_instances:
            raise Skipped("the driver makes no instances")
        node_id = f"{next(self._numbers):010d}"
        metadata = {
            METADATA_NODE_ID: node_id,
            METADATA_POOL: self.subject.pool,
            METADATA_PROVIDER: self.run_id,
        }
        spec = InstanceSpec(node_id, f"np{node_id}", self.subject.pool, self.subject.label, metadata)
        return self.subject.complete(replace(spec, request={"id": f"100-{node_id}", "labels": [self.subject.label]}))

    async def create(self, spec: InstanceSpec | None = None, *, driver: Driver | None = None) -> ExternalId:
        asked = (driver or self.driver).create_instance(spec or self.spec())
        try:
            external_id = await self.call("create_instance", asked)
        except DriverError as error:
            if error.external_id is not None:
                self._made[ExternalId(error.external_id)] = None
            raise
        self._made[external_id] = None
        return external_id

    async def active(self, external_id: ExternalId, *, driver: Driver | None = None) -> Instance:
        return await self.call("wait_until_active", (driver or self.driver).wait_until_active(external_id))

    async def delete(self, external_id: ExternalId, *, driver: Driver | None = None) -> None:
        await self.call("delete_instance", (driver or self.driver).delete_instance(external_id))

    async def listed(self, driver: Driver | None = None) -> dict[ExternalId, Instance]:
        """What ``list_instances`` shows, by id."""
        instances = await self.call("list_instances", _collect(driver or self.driver))
        return {instance.external_id: instance for instance in instances}

    async def all_listed(self) -> list[Instance]:
        """What ``list_instances`` shows, one after the other."""
        return await self.call("list_instances", _collect(self.driver))

    # -- calling ----------------------------------------------------------------------------------------------------

    async def call(self, what: str, asked: Awaitable[T]) -> T:
        """The outcome of a call. Raises: Violation when it hangs or raises what no driver may; DriverError."""
        try:
            async with asyncio.timeout(self.subject.deadline_s) as deadline:
                return await asked
        except (Violation, Skipped):
            raise
        except DriverError as error:
            if error.kind is ErrorKind.INTERNAL:  # what an exception of a driver in another process comes out as
                raise Violation(f"{what} failed by a fault of the driver's: {error}", rule="D7") from error
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise Violation(f"{what} did not return within {self.subject.deadline_s:g} s") from None
            raise Violation(f"{what} raised {type(error).__name__}: {error}", rule="D7") from error

    async def attempt(self, what: str, asked: Awaitable[T]) -> T | DriverError:
        """As `call`, with a DriverError as an outcome like any other."""
        try:
            return await self.call(what, asked)
        except DriverError as error:
            return error

    async def unaccounted(self) -> list[str]:
        """What there is in the cloud that ``list_instances`` doesn't tell of. Raises: Skipped without the hook."""
        if self.hooks.resources is None:
            raise Skipped("needs the hook 'resources'")
        before = await self.hooks.resources()
        listed = await self.listed()
        after = await self.hooks.resources()  # what comes or goes during the list is no fault
        lasting = {name: owner for name, owner in before.items() if name in after}
        return sorted(name for name, owner in lasting.items() if owner not in listed and name not in listed)

    # -- afterwards -------------------------------------------------------------------------------------------------

    async def ours(self, driver: Driver) -> list[ExternalId]:
        """Instances of this run that are there, youngest first."""
        instances = await self.listed(driver)
        by_id = [i for i in self._made if i in instances]
        by_metadata = [i for i, x in instances.items() if x.metadata.get(METADATA_PROVIDER) == self.run_id]
        return list(reversed(list(dict.fromkeys((*by_id, *by_metadata)))))

    async def clean_up(self) -> None:
        """Delete what is left, as far as the driver can; what it can't shows in the report as left over."""
        try:
            for external_id in await self.ours(self.open()):
                await self.attempt("delete_instance", self.delete(external_id, driver=self._drivers[-1]))
        except (DriverError, Violation):
            pass  # the checks tell what is wrong with it
        finally:
            for driver in tuple(self._drivers):
                with suppress(DriverError, Violation):  # as above
                    await self.close(driver)

    async def close(self, driver: Driver) -> None:
        self._drivers.remove(driver)
        if (upkeep := self._upkeep.pop(driver, None)) is not None:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
        await self.call("aclose", driver.aclose())


async def _collect(driver: Driver) -> list[Instance]:
    return [instance async for instance in driver.list_instances()]
