"""Checks of what a driver makes of a cloud that is not as one would like it: faults, lists that lag, other people.

What does *not* belong here: the calls one by one (checks.py), and a driver's death (crashes.py).
"""

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
"""By which a time to ask again may differ from what the cloud says: some clouds say it in whole seconds."""

CHECKS: list[Check] = []
_check = partial(check, CHECKS)


@_check("D3.3", Level.SILVER)
async def a_create_makes_one_instance(bench: Bench) -> None:
    """However often it asks its cloud again, one call makes one instance; under faults, one at most."""
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
    """What there is in the cloud when an instance is deleted is what there was before it was made."""
    bench.spec()  # tells of a driver that makes none
    if bench.faults.resources is None:
        raise Skipped("needs a look into the cloud, 'cloud.resources'")
    before = set(await bench.faults.resources())
    for _ in range(2):
        external_id = await bench.create()
        await bench.active(external_id)
        await bench.delete(external_id)
    left = sorted(set(await bench.faults.resources()) - before)
    require(not left, f"of instances that were deleted there still is {', '.join(left)}")


@_check("D6.3", Level.GOLD)
async def a_lagging_list_misleads_nobody(bench: Bench) -> None:
    """Waiting and deleting go by the instance itself: what the cloud doesn't list yet is there all the same."""
    bench.spec()
    if bench.faults.list_lags is None:
        raise Skipped("needs the fault 'list-lags'")
    async with bench.faults.list_lags():
        waited_for, deleted = await bench.create(), await bench.create()
        outcome = await bench.attempt("wait_until_active", bench.active(waited_for))
        require(not isinstance(outcome, DriverError), f"waiting for what is not listed yet failed: {outcome}")
        await bench.delete(deleted)
    listing = await bench.listed()
    require(waited_for in listing, f"{waited_for} is not listed when the list has caught up")
    require(deleted not in listing, f"{deleted} was deleted while it was not listed, and is still there")


@_check("D6.4", Level.GOLD)
async def other_peoples_are_left_alone(bench: Bench) -> None:
    """Whatever is made, deleted and closed meanwhile, what somebody else made is still there, as it was."""
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
            require(after is not None, f"{foreign}, which somebody else made, is gone")
            require(
                after is None or dict(after.metadata) == dict(before.metadata), f"the metadata of {foreign} changed"
            )


@_check("D7.2", Level.SILVER)
async def errors_are_of_their_kind(bench: Bench) -> None:
    """Each fault comes out as an error of the kind that it is."""
    bench.spec()
    known = {name: offer for name, offer in bench.faults.offers.items() if offer.call and offer.kind}
    if not known:
        raise Skipped("needs faults that say their call and kind")
    for name, offer in known.items():
        if offer.call not in _CALLS:
            continue
        ready = await _running(bench) if offer.call == "delete_instance" else None
        async with bench.faults.named[name]():
            outcome = await bench.attempt(offer.call, _CALLS[offer.call](bench, ready))
        require(isinstance(outcome, DriverError), f"{offer.call} went well during '{name}'")
        kind = outcome.kind if isinstance(outcome, DriverError) else None
        require(kind == offer.kind, f"{offer.call} failed with kind {kind} during '{name}', which is {offer.kind}")
        for external_id in await bench.ours(bench.driver):
            await bench.attempt("delete_instance", bench.delete(external_id))


@_check("D12", Level.GOLD)
async def it_says_when_to_ask_again(bench: Bench) -> None:
    """What its cloud says of when to ask again comes out with the error."""
    bench.spec()
    known = [
        offer for offer in bench.faults.offers.values() if offer.call in _CALLS and offer.retry_after_s is not None
    ]
    if not known:
        raise Inapplicable("no fault that it offers comes with a time to ask again")
    for offer in known:
        ready = await _running(bench) if offer.call == "delete_instance" else None
        async with bench.faults.named[offer.name]():
            outcome = await bench.attempt(offer.call or "", _CALLS[offer.call or ""](bench, ready))
        require(isinstance(outcome, DriverError), f"{offer.call} went well during '{offer.name}'")
        told, due = getattr(outcome, "retry_after_s", None), offer.retry_after_s or 0.0
        require(
            told is not None and abs(told - due) <= RETRY_SLACK_S,
            f"{offer.call} failed with retry_after_s {told} during '{offer.name}', when its cloud says {due:g}",
        )


async def _running(bench: Bench) -> ExternalId:
    """An instance that is active: a cloud may have another way to end one that is not."""
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
    """A driver of machines that exist names the same ones each time, and another with its configuration does so."""
    driver, other = bench.driver, bench.open()
    if not isinstance(driver, SupportsInventory) or not isinstance(other, SupportsInventory):
        raise Inapplicable("the driver makes its instances")
    for each in (driver, other):
        await bench.attempt("quota_limits", each.quota_limits())
    first, again, others = driver.machines(), driver.machines(), other.machines()
    require(list(first) == list(again) == list(others), "its machines are others each time it is asked")
    if not first:
        raise Violation("its configuration names no machine")
    identities = [machine.identity for machine in first]
    require(len(set(identities)) == len(identities), "it names a machine's slot twice")
    await bench.attempt("is_alive", driver.is_alive(first[0]))
