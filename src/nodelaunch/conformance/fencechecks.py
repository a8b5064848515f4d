"""Checks of fencing: a driver refuses calls of a launcher after another launcher has taken over the node."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol, cast

from nodelaunch.conformance.harness import Harness, Inapplicable, require
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.registry import Check, check
from nodelaunch.errors import DriverError, ErrorKind
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    Driver,
    ExternalId,
    Fence,
    Instance,
    InstanceSpec,
    SupportsFencing,
)

CHECKS: list[Check] = []
_check = partial(check, CHECKS)


class _FencedDriver(Driver, SupportsFencing, Protocol):
    """A driver with the capability ``fencing``."""


@_check("D14.1", Level.SILVER)
async def stale_calls_are_refused(harness: Harness) -> None:
    """Stale calls are refused through every driver and change nothing; a delete makes older calls stale, too."""
    first, second = _fencing(harness), _opened(harness)
    spec = harness.spec()
    old, newer, newest = (_fence(harness, spec, number) for number in (1, 2, 3))
    external_id = await harness.create(replace(spec, fence=old))
    before = await harness.listed()
    await harness.call("raise_fence", first.raise_fence(newer))
    for by in (first, second):
        await _refused(harness, "create_instance", harness.create(replace(spec, fence=old), driver=by))
        await _refused(harness, "delete_fenced", by.delete_fenced(external_id, old))
        await _refused(harness, "raise_fence", by.raise_fence(old))
    listed = await harness.listed()
    require(external_id in listed, f"{external_id} is gone after a delete_fenced that was refused")
    made = _made_meanwhile(before, listed, spec)
    require(made in ([], [external_id]), f"a create_instance that was refused made {', '.join(made)}")
    await _taken(harness, "delete_fenced", second.delete_fenced(external_id, newest))
    await _refused(harness, "create_instance", harness.create(replace(spec, fence=newer)))


@_check("D14.2", Level.SILVER)
async def other_calls_are_not_refused(harness: Harness) -> None:
    """Calls with the same fence again, without a fence, and for other nodes are accepted."""
    driver = _fencing(harness)
    spec = harness.spec()
    fence = _fence(harness, spec, 1 << 40)
    await _taken(harness, "raise_fence", driver.raise_fence(fence))
    external_id = await _made(harness, replace(spec, fence=fence))
    await _taken(harness, "delete_fenced with the fence it was made with", driver.delete_fenced(external_id, fence))
    require(external_id not in await harness.listed(), f"{external_id} is still listed when delete_fenced returned")
    await _taken(harness, "delete_fenced of what is gone", driver.delete_fenced(external_id, fence))
    external_id = await _made(harness, spec)
    await _taken(harness, "delete_instance, without a fence", harness.delete(external_id))
    other = harness.spec()
    external_id = await _made(harness, replace(other, fence=_fence(harness, other, 1)))
    again = Fence(f"{_fence(harness, spec, 1).node}-made-anew", 1)
    await _taken(harness, "raise_fence for a node whose id came again", driver.raise_fence(again))


def _fencing(harness: Harness) -> _FencedDriver:
    """Return the driver under test. Raises: Inapplicable."""
    return _as_fencing(harness.driver)


def _opened(harness: Harness) -> _FencedDriver:
    return _as_fencing(harness.open())


def _as_fencing(driver: Driver) -> _FencedDriver:
    if not isinstance(driver, SupportsFencing):
        raise Inapplicable("the driver does not have the capability fencing")
    return cast("_FencedDriver", driver)


def _fence(harness: Harness, spec: InstanceSpec, number: int) -> Fence:
    return Fence(f"{spec.node_id}@{harness.run_id}", number)


def _made_meanwhile(
    before: Mapping[ExternalId, Instance], after: Mapping[ExternalId, Instance], spec: InstanceSpec
) -> list[ExternalId]:
    """Return new instances, except those whose metadata names another node."""
    new = after.keys() - before.keys()
    return [each for each in new if after[each].metadata.get(METADATA_NODE_ID, spec.node_id) == spec.node_id]


async def _refused(harness: Harness, what: str, call: Awaitable[object]) -> None:
    outcome = await harness.attempt(what, call)
    require(isinstance(outcome, DriverError), f"{what} with a lower fence than before succeeded")
    kind = outcome.kind if isinstance(outcome, DriverError) else None
    require(kind is ErrorKind.STALE, f"{what} with a lower fence than before failed with kind {kind}, not stale")


async def _taken(harness: Harness, what: str, call: Awaitable[None]) -> None:
    outcome = await harness.attempt(what, call)
    require(outcome is None, f"{what} failed: {outcome}")


async def _made(harness: Harness, spec: InstanceSpec) -> ExternalId:
    outcome = await harness.attempt("create_instance", harness.create(spec))
    if isinstance(outcome, DriverError):
        require(outcome.kind is not ErrorKind.STALE, f"create_instance with {spec.fence} was refused: {outcome}")
        raise outcome
    return outcome
