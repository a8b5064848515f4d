"""The harness of a check: the driver under test, calls with deadlines, and a registry of instances to clean up."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from nodelaunch.conformance.faults import CloudFaults
from nodelaunch.conformance.probe import DriverProgram, Probe
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

PROBE_S: Final = 20.0
"""Deadline for one answer to a `Probe`."""
TIMED: Final = ("create_instance", "wait_until_active", "delete_instance", "list_instances")
"""Calls whose latencies are reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverUnderTest:
    """A driver to check, on a cloud with capacity for ``concurrency`` instances."""

    name: str
    open: Callable[[], Driver]
    """Makes a new driver on the same cloud; called often, and from any event loop."""
    pool: str
    label: str
    complete: Callable[[InstanceSpec], InstanceSpec] = lambda spec: spec
    """Adds to a spec what this cloud needs, such as the image to boot."""
    faults: CloudFaults = field(default_factory=CloudFaults)
    deadline_s: float = 600.0
    """Deadline of each call; a longer call counts as hanging."""
    max_block_s: float = 0.5
    """How long a call may take the event loop before it counts as blocking it."""
    concurrency: int = 3
    """Most concurrent calls of one kind."""
    program: DriverProgram | None = None
    """How to start the driver, if it runs in a separate process."""
    secrets: tuple[str, ...] = ()
    """Secrets that the driver gets and must not reveal."""


class Violation(Exception):  # noqa: N818  it is a finding
    """The driver broke a rule: the rule of the check, unless *rule* names another one."""

    def __init__(self, fault: str, *, rule: str | None = None) -> None:
        super().__init__(fault)
        self.rule = rule


class Skipped(Exception):  # noqa: N818  it is an outcome
    """The check can't be made; the message says what it needs."""


class Inapplicable(Exception):  # noqa: N818  it is an outcome
    """The check tests something that such a driver doesn't do."""


def require(holds: bool, fault: str, *, rule: str | None = None) -> None:
    """Raise Violation with the text *fault* unless the condition *holds*."""
    if not holds:
        raise Violation(fault, rule=rule)


@dataclass(slots=True)
class RunState:
    """State that all checks of one run share."""

    run_id: str
    faults: CloudFaults
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    shared: Driver | None = None
    """The driver that most checks share if it is a process, because processes are slow to start."""
    shared_upkeep: asyncio.Task[None] | None = None
    took_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Duration of each successful call, by the call."""


class Harness:
    """The harness of one check. `clean_up` deletes the instances and closes the drivers that the check made with it."""

    def __init__(self, under_test: DriverUnderTest, run: RunState) -> None:
        self.under_test = under_test
        self.faults: CloudFaults = run.faults
        self.run_id: str = run.run_id
        self._run = run
        self._drivers: list[Driver] = []
        self._probes: list[Probe] = []
        self._upkeep: dict[Driver, asyncio.Task[None]] = {}
        self._made: dict[ExternalId, None] = {}
        self.driver: Driver = self.open() if under_test.program is None else self._shared()

    @property
    def makes_instances(self) -> bool:
        return not isinstance(self.driver, SupportsInventory)

    # -- making things ----------------------------------------------------------------------------------------------

    def open(self) -> Driver:
        """Return a new driver on the same cloud, with its upkeep running as in the engine."""
        driver = self.under_test.open()
        self._drivers.append(driver)
        if isinstance(driver, SupportsUpkeep):
            self._upkeep[driver] = asyncio.create_task(driver.upkeep())
        return driver

    @property
    def program(self) -> DriverProgram:
        """How to start the driver. Raises: Inapplicable for a driver in this process."""
        if self.under_test.program is None:
            raise Inapplicable("the driver is in this process")
        return self.under_test.program

    def require_process(self) -> None:
        """Raise Inapplicable if the kit did not start the driver's process."""
        if self.program.is_remote:
            raise Inapplicable("needs a process that the kit started; the driver at the socket runs already")

    async def probe(self, **how: Any) -> Probe:
        """Start a process of the driver for raw messages; *how*: as for a `Probe`."""
        probe = Probe(self.program, answer_s=min(PROBE_S, self.under_test.deadline_s), **how)
        self._probes.append(probe)
        await probe.start()
        return probe

    def _shared(self) -> Driver:
        """Return the driver that the checks share until a check fails."""
        if self._run.shared is None:
            self._run.shared = self.open()
            self._drivers.remove(self._run.shared)
            self._run.shared_upkeep = self._upkeep.pop(self._run.shared, None)
        return self._run.shared

    def spec(self) -> InstanceSpec:
        """Return a spec as the engine makes it for a new node. Raises: Inapplicable for an inventory."""
        if not self.makes_instances:
            raise Inapplicable("the driver makes no instances")
        node_id = f"{next(self._run.numbers):010d}"
        metadata = {
            METADATA_NODE_ID: node_id,
            METADATA_POOL: self.under_test.pool,
            METADATA_PROVIDER: self.run_id,
        }
        spec = InstanceSpec(node_id, f"np{node_id}", self.under_test.pool, self.under_test.label, metadata)
        return self.under_test.complete(
            replace(spec, request={"id": f"100-{node_id}", "labels": [self.under_test.label]})
        )

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
        """Return the instances in ``list_instances`` by id."""
        instances = await self.call("list_instances", _collect(driver or self.driver))
        return {instance.external_id: instance for instance in instances}

    async def all_listed(self) -> list[Instance]:
        """Return the instances in ``list_instances`` in order, with duplicates."""
        return await self.call("list_instances", _collect(self.driver))

    # -- calling ----------------------------------------------------------------------------------------------------

    async def call(self, what: str, asked: Awaitable[T]) -> T:
        """Return the result of a call. Raises: Violation if it hangs or raises a forbidden exception; DriverError."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.under_test.deadline_s) as deadline:
                outcome = await asked
            if what in TIMED:
                self._run.took_s[what].append(asyncio.get_running_loop().time() - began)
            return outcome
        except (Violation, Skipped, Inapplicable):
            raise
        except DriverError as error:
            if error.kind is ErrorKind.INTERNAL:  # an exception in a driver process arrives as this kind
                raise Violation(f"{what} failed because of a bug in the driver: {error}", rule="D7.1") from error
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise Violation(f"{what} did not return within {self.under_test.deadline_s:g} s") from None
            raise Violation(f"{what} raised {type(error).__name__}: {error}", rule="D7.1") from error

    async def attempt(self, what: str, asked: Awaitable[T]) -> T | DriverError:
        """Return the result of a call as `call` does, or its DriverError."""
        try:
            return await self.call(what, asked)
        except DriverError as error:
            return error

    async def unaccounted(self) -> list[str]:
        """Return resources of the cloud that ``list_instances`` misses. Raises: Skipped without a view of the cloud."""

        if self.faults.resources is None:
            raise Skipped("needs a view of the cloud, 'cloud.resources'")
        before = await self.faults.resources()
        listed = await self.listed()
        after = await self.faults.resources()  # ignore resources that come or go during the list
        lasting = {name: owner for name, owner in before.items() if name in after}
        return sorted(name for name, owner in lasting.items() if owner not in listed and name not in listed)

    # -- afterwards -------------------------------------------------------------------------------------------------

    async def ours(self, driver: Driver) -> list[ExternalId]:
        """Return the existing instances of this run, youngest first."""
        instances = await self.listed(driver)
        by_id = [i for i in self._made if i in instances]
        by_metadata = [i for i, x in instances.items() if x.metadata.get(METADATA_PROVIDER) == self.run_id]
        return list(reversed(list(dict.fromkeys((*by_id, *by_metadata)))))

    async def clean_up(self, *, is_last: bool = True) -> None:
        """Delete the remaining instances as far as the driver can; the report lists the others as left over.

        Unless *is_last*, the shared driver stays open for the next check.
        """
        cleaner = self.open() if self._run.shared is None else self._run.shared
        try:
            for external_id in await self.ours(cleaner):
                await self.attempt("delete_instance", self.delete(external_id, driver=cleaner))
        except (DriverError, Violation):
            pass  # the checks report the fault
        finally:
            for probe in self._probes:
                await probe.aclose()
            for driver in tuple(self._drivers):
                with suppress(DriverError, Violation):  # as above
                    await self.close(driver)
            if is_last and self._run.shared is not None:
                with suppress(DriverError, Violation):  # as above
                    await self._close_shared(self._run.shared)

    async def _close_shared(self, driver: Driver) -> None:
        upkeep, self._run.shared, self._run.shared_upkeep = self._run.shared_upkeep, None, None
        await self._finish(driver, upkeep)

    async def close(self, driver: Driver) -> None:
        self._drivers.remove(driver)
        await self._finish(driver, self._upkeep.pop(driver, None))

    async def _finish(self, driver: Driver, upkeep: asyncio.Task[None] | None) -> None:
        if upkeep is not None:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
        await self.call("aclose", driver.aclose())


async def _collect(driver: Driver) -> list[Instance]:
    return [instance async for instance in driver.list_instances()]
