"""The checks, in the order of the rules. To add one, write a coroutine under its rule and decorate it.

Each check makes its instances through a harness that cleans up afterwards, and reports only violations of its own rule.
The exception is D7: every check reports an exception that no driver may raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from nodelaunch.conformance.harness import Harness, Inapplicable, Skipped, Violation, require
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.loopwatch import LoopWatch
from nodelaunch.conformance.registry import Check, check
from nodelaunch.errors import DriverError, InstanceNotFoundError
from nodelaunch.protocol.driver import METADATA_NODE_ID, ExternalId, Instance, InstanceSpec
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM

T = TypeVar("T")

CANCEL_POINTS = 12
"""A create is cancelled after each number of turns of the loop up to this."""


CHECKS: list[Check] = []
_check = partial(check, CHECKS)


# -- D1: create returns as soon as there is an id ---------------------------------------------------------------------


@_check("D1", Level.SILVER)
async def create_does_not_wait_for_boot(harness: Harness) -> None:
    """The create call returns the id of an instance even while instances don't boot."""
    _makes_instances(harness)
    if harness.faults.boot_held is None:
        raise Skipped("needs the fault 'boot-held'")
    async with harness.faults.boot_held():
        external_id = await harness.create()
    await harness.active(external_id)


# -- D2: metadata ------------------------------------------------------------------------------------------------------


@_check("D2.1", Level.BRONZE)
async def metadata_is_listed_unchanged(harness: Harness) -> None:
    """The list shows the metadata given to create, both while the instance boots and when it runs."""
    spec = harness.spec()
    external_id = await harness.create(spec)
    _require_metadata(await harness.listed(), external_id, spec)
    await harness.active(external_id)
    _require_metadata(await harness.listed(), external_id, spec)


@_check("D2.1", Level.SILVER)
async def metadata_is_there_from_the_start(harness: Harness) -> None:
    """During a create the list never shows the instance without its metadata."""
    spec = harness.spec()
    seen: list[dict[ExternalId, Instance]] = []
    async with _beside(harness.create(spec)) as creating:
        while not creating.done():
            seen.append(await harness.listed())
            await asyncio.sleep(0)
        external_id = await creating
    for listing in seen:
        if external_id in listing:
            _require_metadata(listing, external_id, spec)


@_check("D2.2", Level.SILVER)
async def what_a_failed_create_leaves_has_metadata(harness: Harness) -> None:
    """An instance that a failed create leaves has the metadata of that create."""
    for name, fault in _faults(harness).items():
        before = await harness.listed()
        spec = harness.spec()
        async with fault():
            await harness.attempt("create_instance", harness.create(spec))
        listing = await harness.listed()
        for external_id in listing.keys() - before.keys():
            _require_metadata(listing, external_id, spec, f" after '{name}'")


def _require_metadata(
    listing: Mapping[ExternalId, Instance], external_id: ExternalId, spec: InstanceSpec, when: str = ""
) -> None:
    if external_id not in listing:
        return  # a missing instance violates D6, not this rule
    metadata = listing[external_id].metadata
    wrong = {key: metadata.get(key) for key, value in spec.metadata.items() if metadata.get(key) != value}
    require(not wrong, f"list_instances shows {external_id}{when} with {wrong} instead of {dict(spec.metadata)}")


# -- D3: failed and cancelled creates ----------------------------------------------------------------------------------


@_check("D3.1", Level.SILVER)
async def a_failed_create_leaves_nothing_hidden(harness: Harness) -> None:
    """The list shows all resources that a failed create leaves in the cloud."""
    faults = _faults(harness)
    known = set(await harness.unaccounted())
    for name, fault in faults.items():
        async with fault():
            await harness.attempt("create_instance", harness.create())
        hidden = [each for each in await harness.unaccounted() if each not in known]
        require(not hidden, f"a create that failed by '{name}' left resources that are not listed: {', '.join(hidden)}")


@_check("D3.2", Level.SILVER)
async def a_cancelled_create_leaves_nothing_hidden(harness: Harness) -> None:
    """The list shows all resources that a create leaves when it is cancelled at any moment."""
    _makes_instances(harness)
    known = set(await harness.unaccounted())
    for turns in range(CANCEL_POINTS):
        await _cancelled_after(turns, harness.create())
        hidden = [each for each in await harness.unaccounted() if each not in known]
        left = f"a create cancelled after {turns} turns left resources that are not listed"
        require(not hidden, f"{left}: {', '.join(hidden)}")
        for external_id in await harness.ours(harness.driver):
            await harness.delete(external_id)


async def _cancelled_after(turns: int, call: Awaitable[object]) -> None:
    """Let *call* run for *turns* turns of the loop, then cancel it and wait for its end.

    Raises: the exception of *call*, unless it is a DriverError.
    """
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, DriverError):
        raise error


# -- D4: waiting -------------------------------------------------------------------------------------------------------


@_check("D4.1", Level.BRONZE)
async def anybody_may_wait_again(harness: Harness) -> None:
    """Waits for one instance work twice, at once and through another driver; all return the same running instance."""
    external_id = await harness.create()
    other = harness.open()
    together = await _together(harness.active(external_id, driver=d) for d in (harness.driver, harness.driver, other))
    again = await harness.active(external_id)
    for instance in (*together, again):
        require(instance.external_id == external_id, f"waiting for {external_id} gave {instance.external_id}")
        require(instance.is_active, f"wait_until_active gave {external_id} while it was not active")


@_check("D4.1", Level.SILVER)
async def a_cancelled_wait_can_be_taken_up(harness: Harness) -> None:
    """A cancelled wait does not affect the instance; a later wait for it succeeds."""
    async with _held(harness):
        external_id = await _create_held(harness)
        await _cancelled_after(3, harness.active(external_id))
    instance = await harness.active(external_id)
    require(instance.is_active, f"wait_until_active gave {external_id} while it was not active")


@_check("D4.2", Level.BRONZE)
async def waiting_for_a_deleted_instance_ends(harness: Harness) -> None:
    """A wait for a deleted instance ends with InstanceNotFoundError; a delete during a wait ends the wait."""
    external_id = await harness.create()
    await harness.active(external_id)
    await harness.delete(external_id)
    outcome = await harness.attempt("wait_until_active", harness.driver.wait_until_active(external_id))
    require(
        isinstance(outcome, InstanceNotFoundError), f"wait_until_active for a deleted instance gave {_brief(outcome)}"
    )
    async with _held(harness):
        external_id = await _create_held(harness)
        async with _beside(
            harness.attempt("wait_until_active", harness.driver.wait_until_active(external_id))
        ) as waiting:
            await asyncio.sleep(0)
            await harness.delete(external_id)
            outcome = await waiting
    was_faster = isinstance(outcome, Instance) and harness.faults.boot_held is None
    require(was_faster or isinstance(outcome, DriverError), f"a wait during a delete ended with {_brief(outcome)}")


# -- D5: deleting ------------------------------------------------------------------------------------------------------


@_check("D5.1", Level.BRONZE)
async def gone_when_delete_returns(harness: Harness) -> None:
    """When delete returns, neither the list nor the cloud has the instance, even if it was still booting."""
    running, booting = await harness.create(), await harness.create()
    await harness.active(running)
    for external_id in (running, booting):
        await harness.delete(external_id)
        await _require_gone(harness, external_id)


@_check("D5.2", Level.BRONZE)
async def deleting_twice_is_fine(harness: Harness) -> None:
    """A second delete of an instance succeeds: later, through another driver, and at the same time."""
    external_id = await harness.create()
    await harness.delete(external_id)
    await _fine(harness, "a second delete_instance", harness.delete(external_id))
    await _fine(harness, "delete_instance by another driver", harness.delete(external_id, driver=harness.open()))
    external_id = await harness.create()
    other = harness.open()
    both = (harness.driver, other)
    await _together(
        _fine(harness, "one of two delete_instance at once", harness.delete(external_id, driver=d)) for d in both
    )
    await _require_gone(harness, external_id)


@_check("D5.2", Level.SILVER)
async def a_cancelled_delete_can_be_taken_up(harness: Harness) -> None:
    """A second delete finishes a cancelled one."""
    external_id = await harness.create()
    await _cancelled_after(2, harness.delete(external_id))
    await _fine(harness, "delete_instance after a cancelled one", harness.delete(external_id))
    await _require_gone(harness, external_id)


async def _fine(harness: Harness, what: str, call: Awaitable[None]) -> None:
    outcome = await harness.attempt(what, call)
    require(outcome is None, f"{what} raised {_brief(outcome)}")


async def _require_gone(harness: Harness, external_id: ExternalId) -> None:
    require(external_id not in await harness.listed(), f"{external_id} is still listed when delete_instance returned")
    if harness.faults.resources is not None:
        owned = [name for name, owner in (await harness.faults.resources()).items() if external_id in (name, owner)]
        require(not owned, f"when delete_instance of {external_id} returned, the cloud still had {', '.join(owned)}")


# -- D6: listing -------------------------------------------------------------------------------------------------------


@_check("D6.1", Level.BRONZE)
async def ours_are_listed_once(harness: Harness) -> None:
    """Each instance is listed once from the return of create, with resources equal to the usage of its label."""
    spec = harness.spec()
    external_id = await harness.create(spec)
    instances = [i for i in await harness.all_listed() if i.external_id == external_id]
    require(len(instances) == 1, f"{external_id} is listed {len(instances)} times")
    listed = instances[0].resources
    if listed is not None:
        need = await harness.call("quota_for_label", harness.driver.quota_for_label(spec.pool, spec.label))
        wrong = [name for name in (INSTANCES, CORES, RAM) if listed[name] != need[name]]
        require(
            not wrong, f"{external_id} is listed with {listed!r}, but the usage of its label is {need!r}", rule="D11"
        )


@_check("D6.2", Level.SILVER)
async def other_peoples_are_listed(harness: Harness) -> None:
    """The list shows instances of other users, because they use quota, too."""
    _makes_instances(harness)
    if harness.faults.foreign_instance is None:
        raise Skipped("needs the fault 'foreign-instance'")
    async with harness.faults.foreign_instance() as external_id:
        require(external_id in await harness.listed(), f"{external_id}, which another user made, is not listed")


# -- D7: errors --------------------------------------------------------------------------------------------------------


@_check("D7.1", Level.BRONZE)
async def nonsense_gives_driver_errors(harness: Harness) -> None:
    """Calls for unknown labels and instances raise only DriverError, or succeed."""
    nowhere = ExternalId("00000000-0000-4000-8000-000000000000")
    driver, pool = harness.driver, harness.under_test.pool
    await harness.attempt("wait_until_active of an unknown id", driver.wait_until_active(nowhere))
    await harness.attempt("delete_instance of an unknown id", driver.delete_instance(nowhere))
    await harness.attempt("quota_for_label of an unknown label", driver.quota_for_label(pool, "no-such-label"))
    await harness.attempt("label_ready of an unknown label", driver.label_ready(pool, "no-such-label"))
    if harness.makes_instances:
        spec = replace(harness.spec(), label="no-such-label")
        await harness.attempt("create_instance of an unknown label", harness.create(spec))


@_check("D7.1", Level.SILVER)
async def a_failing_cloud_gives_driver_errors(harness: Harness) -> None:
    """While a fault is set, every call ends and raises only DriverError; afterwards the calls work again."""
    driver, pool, label = harness.driver, harness.under_test.pool, harness.under_test.label
    for name, fault in _faults(harness).items():
        running, doomed = await harness.create(), await harness.create()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "create_instance": harness.create,
            "wait_until_active": partial(harness.active, running),
            "delete_instance": partial(harness.delete, doomed),
            "list_instances": harness.listed,
            "quota_limits": driver.quota_limits,
            "quota_for_label": partial(driver.quota_for_label, pool, label),
            "label_ready": partial(driver.label_ready, pool, label),
        }
        async with fault():
            for what, call in calls.items():
                await harness.attempt(f"{what} during '{name}'", call())
        for external_id in await harness.ours(driver):
            await harness.attempt("delete_instance", harness.delete(external_id))


# -- D8: rebuilding ----------------------------------------------------------------------------------------------------


@_check("D8.1", Level.SILVER)
async def another_driver_takes_over(harness: Harness) -> None:
    """Closing a driver keeps its instances; the next driver lists them unchanged, waits for them and deletes them."""
    first, second = harness.open(), harness.open()
    external_id = await harness.create(driver=first)
    before = (await harness.listed(first)).get(external_id)
    await harness.close(first)
    after = (await harness.listed(second)).get(external_id)
    if before is not None:
        require(after is not None, f"{external_id} is not listed by a new driver object")
        require(
            after is None or dict(before.metadata) == dict(after.metadata),
            f"a new driver object lists {external_id} with other metadata",
        )
    instance = await harness.active(external_id, driver=second)
    require(instance.external_id == external_id, f"waiting for {external_id} gave {instance.external_id}")
    await harness.delete(external_id, driver=harness.open())
    require(external_id not in await harness.listed(second), f"{external_id} is listed after another driver deleted it")


# -- D9: concurrency ---------------------------------------------------------------------------------------------------


@_check("D9.1", Level.SILVER)
async def calls_run_side_by_side(harness: Harness) -> None:
    """Concurrent creates, waits, lists and deletes don't interfere with each other."""
    specs = [harness.spec() for _ in range(harness.under_test.concurrency)]
    created = await _together(harness.create(spec) for spec in specs)
    require(len(set(created)) == len(specs), f"{len(specs)} creates at once gave the ids {', '.join(created)}")
    async with _beside(harness.listed()) as listing_:
        instances = await _together(harness.active(external_id) for external_id in created)
        listing = await listing_
    for external_id, instance, spec in zip(created, instances, specs, strict=True):
        require(instance.external_id == external_id, f"waiting for {external_id} gave {instance.external_id}")
        if external_id in listing:
            node_id = listing[external_id].metadata.get(METADATA_NODE_ID, spec.node_id)
            require(node_id == spec.node_id, f"{external_id} is listed with the metadata of another create")
    await _together(harness.delete(external_id) for external_id in created)


@_check("D9.2", Level.SILVER)
async def the_loop_is_never_held_up(harness: Harness) -> None:
    """No call blocks the event loop."""
    driver, pool, label = harness.driver, harness.under_test.pool, harness.under_test.label
    async with LoopWatch(harness.under_test.max_block_s) as watch:
        await harness.attempt("list_instances", harness.listed())
        await harness.attempt("quota_limits", driver.quota_limits())
        await harness.attempt("quota_for_label", driver.quota_for_label(pool, label))
        await harness.attempt("label_ready", driver.label_ready(pool, label))
        if harness.makes_instances:
            with suppress(DriverError):  # other checks report it
                external_id = await harness.create()
                await harness.active(external_id)
                await harness.delete(external_id)
    require(watch.held_up_by is None, f"a call blocked the event loop at {watch.held_up_by}")


# -- shared ------------------------------------------------------------------------------------------------------------


def _faults(harness: Harness) -> Mapping[str, Callable[[], AbstractAsyncContextManager[None]]]:
    _makes_instances(harness)
    if not harness.faults.named:
        raise Skipped("needs faults: ways in which the cloud fails")
    return harness.faults.named


def _makes_instances(harness: Harness) -> None:
    if not harness.makes_instances:
        raise Inapplicable("the driver makes no instances")


@asynccontextmanager
async def _held(harness: Harness) -> AsyncIterator[None]:
    """Hold the boot of instances in the block if the faults can."""
    if harness.faults.boot_held is None:
        yield
    else:
        async with harness.faults.boot_held():
            yield


async def _create_held(harness: Harness) -> ExternalId:
    """Create an instance while its boot may be held. Raises: Skipped if create waits for the boot, which breaks D1."""
    try:
        return await harness.create()
    except Violation as violation:
        if violation.rule is None:
            raise Skipped("create_instance does not return while boot is held") from None
        raise


async def _together(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Run *calls* concurrently and return their results. When all have ended, raises the first error."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


@asynccontextmanager
async def _beside(call: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run *call* as a task during the block; cancels it at the end of the block."""
    task = asyncio.create_task(call)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _brief(outcome: object) -> str:
    if isinstance(outcome, BaseException):
        return f"{type(outcome).__name__}: {outcome}"
    return "an instance" if isinstance(outcome, Instance) else repr(outcome)
