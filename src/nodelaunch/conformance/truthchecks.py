"""Checks of a driver on a difficult cloud: faults, lists that lag, instances of other users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from nodelaunch.conformance.bench import Bench, Inapplicable, Skipped, Violation, require
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.registry import Check, check
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import METADATA_NODE_ID, ExternalId, InstanceSpec, SupportsInventory

RETRY_SLACK_S: Final = 1.0
"""Allowed difference between the driver's ``retry_after_s`` and the cloud's: some clouds report whole seconds."""

CHECKS: list[Check] = []
_check = partial(check, CHECKS)


@_check("D3.3", Level.SILVER)
async def a_create_makes_one_instance(bench: Bench) -> None:
    """A create call makes one instance, even if the driver retries; a call that fails makes one at most."""
    spec = bench.spec()
    await bench.create(spec)
    require((count := await _count(bench, spec)) <= 1, f"one create made {count} instances")
    for name, fault in bench.faults.named.items():
        spec = bench.spec()
        async with fault():
            await bench.attempt("create_instance", bench.create(spec))
        count = await _count(bench, spec)
        require(count <= 1, f"one create that failed by '{name}' made {count} instances")


async def _count(bench: Bench, spec: InstanceSpec) -> int:
    listed = await bench.all_listed()
    return len({each.external_id for each in listed if each.metadata.get(METADATA_NODE_ID) == spec.node_id})


@_check("D5.3", Level.SILVER)
async def nothing_of_a_deleted_instance_stays(bench: Bench) -> None:
    """After the delete of an instance the cloud has the same resources as before its create."""
    bench.spec()  # raises Inapplicable if the driver makes no instances
    if bench.faults.resources is None:
        raise Skipped("needs a view of the cloud, 'cloud.resources'")
    before = set(await bench.faults.resources())
    for _ in range(2):
        external_id = await bench.create()
        await bench.active(external_id)
        await bench.delete(external_id)
    left = sorted(set(await bench.faults.resources()) - before)
    require(not left, f"the cloud still has resources of deleted instances: {', '.join(left)}")


@_check("D6.3", Level.GOLD)
async def a_lagging_list_misleads_nobody(bench: Bench) -> None:
    """Waits and deletes read the instance itself, so they work before the cloud lists the instance."""
    bench.spec()
    if bench.faults.list_lags is None:
        raise Skipped("needs the fault 'list-lags'")
    async with bench.faults.list_lags():
        waited_for, deleted = await bench.create(), await bench.create()
        outcome = await bench.attempt("wait_until_active", bench.active(waited_for))
        require(
            not isinstance(outcome, DriverError), f"a wait for an instance that is not listed yet failed: {outcome}"
        )
        await bench.delete(deleted)
    listing = await bench.listed()
    require(waited_for in listing, f"{waited_for} is not listed after the list has caught up")
    require(deleted not in listing, f"{deleted} was deleted while it was not listed, but still exists")


@_check("D6.4", Level.GOLD)
async def other_peoples_are_left_alone(bench: Bench) -> None:
    """Creates, deletes and closing leave an instance of another user unchanged."""
    bench.spec()
    if bench.faults.foreign_instance is None:
        raise Skipped("needs the fault 'foreign-instance'")
    async with bench.faults.foreign_instance() as foreign:
        before = (await bench.listed()).get(foreign)
        another = bench.open()
        external_id = await bench.create(driver=another)
        await bench.active(external_id, driver=another)
        await bench.delete(external_id, driver=another)
        await bench.close(another)
        after = (await bench.listed()).get(foreign)
        if before is not None:
            require(after is not None, f"{foreign}, which another user made, is gone")
            require(
                after is None or dict(after.metadata) == dict(before.metadata), f"the metadata of {foreign} changed"
            )


@_check("D7.2", Level.SILVER)
async def errors_are_of_their_kind(bench: Bench) -> None:
    """Each fault leads to an error of the fault's kind."""
    bench.spec()
    known = {name: offer for name, offer in bench.faults.offers.items() if offer.call and offer.kind}
    if not known:
        raise Skipped("needs faults that name their call and kind")
    for name, offer in known.items():
        if offer.call not in _CALLS:
            continue
        ready = await _running(bench) if offer.call == "delete_instance" else None
        async with bench.faults.named[name]():
            outcome = await bench.attempt(offer.call, _CALLS[offer.call](bench, ready))
        require(isinstance(outcome, DriverError), f"{offer.call} succeeded during '{name}'")
        kind = outcome.kind if isinstance(outcome, DriverError) else None
        require(kind == offer.kind, f"{offer.call} failed with kind {kind} during '{name}', not {offer.kind}")
        for external_id in await bench.ours(bench.driver):
            await bench.attempt("delete_instance", bench.delete(external_id))


@_check("D12", Level.GOLD)
async def it_says_when_to_ask_again(bench: Bench) -> None:
    """Errors have the ``retry_after_s`` that the cloud reports."""
    bench.spec()
    known = [
        offer for offer in bench.faults.offers.values() if offer.call in _CALLS and offer.retry_after_s is not None
    ]
    if not known:
        raise Inapplicable("no fault of the driver has a retry_after_s")
    for offer in known:
        ready = await _running(bench) if offer.call == "delete_instance" else None
        async with bench.faults.named[offer.name]():
            outcome = await bench.attempt(offer.call or "", _CALLS[offer.call or ""](bench, ready))
        require(isinstance(outcome, DriverError), f"{offer.call} succeeded during '{offer.name}'")
        told, due = getattr(outcome, "retry_after_s", None), offer.retry_after_s or 0.0
        require(
            told is not None and abs(told - due) <= RETRY_SLACK_S,
            f"{offer.call} failed with retry_after_s {told} during '{offer.name}', but the cloud reports {due:g}",
        )


async def _running(bench: Bench) -> ExternalId:
    """Create an active instance: a cloud may delete an instance that is not active in another way."""
    external_id = await bench.create()
    await bench.active(external_id)
    return external_id


async def _wait_for_new(bench: Bench, _ready: ExternalId | None) -> object:
    return await bench.active(await bench.create())


_CALLS: Final[dict[str, Callable[[Bench, ExternalId | None], Awaitable[object]]]] = {
    "create_instance": lambda bench, _: bench.create(),
    "wait_until_active": _wait_for_new,
    "delete_instance": lambda bench, ready: bench.delete(ready or ExternalId("")),
    "list_instances": lambda bench, _: bench.listed(),
    "quota_limits": lambda bench, _: bench.driver.quota_limits(),
    "quota_for_label": lambda bench, _: bench.driver.quota_for_label(bench.subject.pool, bench.subject.label),
    "label_ready": lambda bench, _: bench.driver.label_ready(bench.subject.pool, bench.subject.label),
}


@_check("D13", Level.BRONZE)
async def machines_are_named_alike(bench: Bench) -> None:
    """A driver of existing machines names the same machines each time, as does a second driver."""
    driver, other = bench.driver, bench.open()
    if not isinstance(driver, SupportsInventory) or not isinstance(other, SupportsInventory):
        raise Inapplicable("the driver makes its instances")
    for each in (driver, other):
        await bench.attempt("quota_limits", each.quota_limits())
    first, again, others = driver.machines(), driver.machines(), other.machines()
    require(list(first) == list(again) == list(others), "the driver names different machines each time")
    if not first:
        raise Violation("the driver's configuration names no machine")
    identities = [machine.identity for machine in first]
    require(len(set(identities)) == len(identities), "the driver names the same slot of a machine twice")
    await bench.attempt("is_alive", driver.is_alive(first[0]))
