"""Checks of a driver on a difficult cloud: faults, lists that lag, instances of other users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from nodelaunch.conformance.harness import Harness, Inapplicable, Skipped, Violation, require
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.registry import Check, check
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import METADATA_NODE_ID, ExternalId, InstanceSpec, SupportsInventory

RETRY_SLACK_S: Final = 1.0
"""Allowed difference between the driver's ``retry_after_s`` and the cloud's: some clouds report whole seconds."""

CHECKS: list[Check] = []
_check = partial(check, CHECKS)


@_check("D3.3", Level.SILVER)
async def a_create_makes_one_instance(harness: Harness) -> None:
    """A create call makes one instance, even if the driver retries; a call that fails makes one at most."""
    spec = harness.spec()
    await harness.create(spec)
    require((count := await _count(harness, spec)) <= 1, f"one create made {count} instances")
    for name, fault in harness.faults.named.items():
        spec = harness.spec()
        async with fault():
            await harness.attempt("create_instance", harness.create(spec))
        count = await _count(harness, spec)
        require(count <= 1, f"one create that failed by '{name}' made {count} instances")


async def _count(harness: Harness, spec: InstanceSpec) -> int:
    listed = await harness.all_listed()
    return len({each.external_id for each in listed if each.metadata.get(METADATA_NODE_ID) == spec.node_id})


@_check("D5.3", Level.SILVER)
async def nothing_of_a_deleted_instance_stays(harness: Harness) -> None:
    """After the delete of an instance the cloud has the same resources as before its create."""
    harness.spec()  # raises Inapplicable if the driver makes no instances
    if harness.faults.resources is None:
        raise Skipped("needs a view of the cloud, 'cloud.resources'")
    before = set(await harness.faults.resources())
    for _ in range(2):
        external_id = await harness.create()
        await harness.active(external_id)
        await harness.delete(external_id)
    left = sorted(set(await harness.faults.resources()) - before)
    require(not left, f"the cloud still has resources of deleted instances: {', '.join(left)}")


@_check("D6.3", Level.GOLD)
async def a_lagging_list_misleads_nobody(harness: Harness) -> None:
    """Waits and deletes read the instance itself, so they work before the cloud lists the instance."""
    harness.spec()
    if harness.faults.list_lags is None:
        raise Skipped("needs the fault 'list-lags'")
    async with harness.faults.list_lags():
        waited_for, deleted = await harness.create(), await harness.create()
        outcome = await harness.attempt("wait_until_active", harness.active(waited_for))
        require(
            not isinstance(outcome, DriverError), f"a wait for an instance that is not listed yet failed: {outcome}"
        )
        await harness.delete(deleted)
    listing = await harness.listed()
    require(waited_for in listing, f"{waited_for} is not listed after the list has caught up")
    require(deleted not in listing, f"{deleted} was deleted while it was not listed, but still exists")


@_check("D6.4", Level.GOLD)
async def other_peoples_are_left_alone(harness: Harness) -> None:
    """Creates, deletes and closing leave an instance of another user unchanged."""
    harness.spec()
    if harness.faults.foreign_instance is None:
        raise Skipped("needs the fault 'foreign-instance'")
    async with harness.faults.foreign_instance() as foreign:
        before = (await harness.listed()).get(foreign)
        another = harness.open()
        external_id = await harness.create(driver=another)
        await harness.active(external_id, driver=another)
        await harness.delete(external_id, driver=another)
        await harness.close(another)
        after = (await harness.listed()).get(foreign)
        if before is not None:
            require(after is not None, f"{foreign}, which another user made, is gone")
            require(
                after is None or dict(after.metadata) == dict(before.metadata), f"the metadata of {foreign} changed"
            )


@_check("D7.2", Level.SILVER)
async def errors_are_of_their_kind(harness: Harness) -> None:
    """Each fault leads to an error of the fault's kind."""
    harness.spec()
    known = {name: offer for name, offer in harness.faults.offers.items() if offer.call and offer.kind}
    if not known:
        raise Skipped("needs faults that name their call and kind")
    for name, offer in known.items():
        if offer.call not in _CALLS:
            continue
        ready = await _running(harness) if offer.call == "delete_instance" else None
        async with harness.faults.named[name]():
            outcome = await harness.attempt(offer.call, _CALLS[offer.call](harness, ready))
        require(isinstance(outcome, DriverError), f"{offer.call} succeeded during '{name}'")
        kind = outcome.kind if isinstance(outcome, DriverError) else None
        require(kind == offer.kind, f"{offer.call} failed with kind {kind} during '{name}', not {offer.kind}")
        for external_id in await harness.ours(harness.driver):
            await harness.attempt("delete_instance", harness.delete(external_id))


@_check("D12", Level.GOLD)
async def it_says_when_to_ask_again(harness: Harness) -> None:
    """Errors have the ``retry_after_s`` that the cloud reports."""
    harness.spec()
    known = [
        offer for offer in harness.faults.offers.values() if offer.call in _CALLS and offer.retry_after_s is not None
    ]
    if not known:
        raise Inapplicable("no fault of the driver has a retry_after_s")
    for offer in known:
        ready = await _running(harness) if offer.call == "delete_instance" else None
        async with harness.faults.named[offer.name]():
            outcome = await harness.attempt(offer.call or "", _CALLS[offer.call or ""](harness, ready))
        require(isinstance(outcome, DriverError), f"{offer.call} succeeded during '{offer.name}'")
        told, due = getattr(outcome, "retry_after_s", None), offer.retry_after_s or 0.0
        require(
            told is not None and abs(told - due) <= RETRY_SLACK_S,
            f"{offer.call} failed with retry_after_s {told} during '{offer.name}', but the cloud reports {due:g}",
        )


async def _running(harness: Harness) -> ExternalId:
    """Create an active instance: a cloud may delete an instance that is not active in another way."""
    external_id = await harness.create()
    await harness.active(external_id)
    return external_id


async def _wait_for_new(harness: Harness, _ready: ExternalId | None) -> object:
    return await harness.active(await harness.create())


_CALLS: Final[dict[str, Callable[[Harness, ExternalId | None], Awaitable[object]]]] = {
    "create_instance": lambda harness, _: harness.create(),
    "wait_until_active": _wait_for_new,
    "delete_instance": lambda harness, ready: harness.delete(ready or ExternalId("")),
    "list_instances": lambda harness, _: harness.listed(),
    "quota_limits": lambda harness, _: harness.driver.quota_limits(),
    "quota_for_label": lambda harness, _: harness.driver.quota_for_label(
        harness.under_test.pool, harness.under_test.label
    ),
    "label_ready": lambda harness, _: harness.driver.label_ready(harness.under_test.pool, harness.under_test.label),
}


@_check("D13", Level.BRONZE)
async def machines_are_named_alike(harness: Harness) -> None:
    """A driver of existing machines names the same machines each time, as does a second driver."""
    driver, other = harness.driver, harness.open()
    if not isinstance(driver, SupportsInventory) or not isinstance(other, SupportsInventory):
        raise Inapplicable("the driver makes its instances")
    for each in (driver, other):
        await harness.attempt("quota_limits", each.quota_limits())
    first, again, others = driver.machines(), driver.machines(), other.machines()
    require(list(first) == list(again) == list(others), "the driver names different machines each time")
    if not first:
        raise Violation("the driver's configuration names no machine")
    identities = [machine.identity for machine in first]
    require(len(set(identities)) == len(identities), "the driver names the same slot of a machine twice")
    await harness.attempt("is_alive", driver.is_alive(first[0]))
