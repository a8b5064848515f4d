"""Checks that kill a driver's process at each stage of a call.

Each check kills a separate process with SIGKILL, as a machine without memory would. Afterwards another process has to
list all resources of the first one and resume its calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from nodelaunch.conformance.harness import Harness, Skipped, Violation, require
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.probe import Json, Probe, ProbeError, RefusedCall
from nodelaunch.conformance.registry import Check, check
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import ExternalId, InstanceSpec

MOMENTS_S: Final = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)
"""Seconds between the call and the kill."""
ENDS_WITHIN_S: Final = 2.0
"""How long a resource that a killed driver left may take to end by itself."""
MAX_STAGES: Final = 5
"""Notifications of progress in one call after which the check kills the process."""

CHECKS: list[Check] = []
_check = partial(check, CHECKS)


def _needs(harness: Harness) -> None:
    harness.spec()  # raises Inapplicable if the driver makes no instances
    if harness.under_test.program is None:
        raise Skipped("needs a process to kill: check the driver with isolation 'process'")
    if harness.under_test.program.is_remote:
        raise Skipped("needs a process to kill: check the driver's executable")
    if harness.faults.resources is None:
        raise Skipped("needs a view of the cloud, 'cloud.resources'")


@_check("D8.2", Level.GOLD)
async def a_killed_create_leaves_nothing_hidden(harness: Harness) -> None:
    """The next driver process lists, with metadata, all resources of a driver that was killed during a create."""
    _needs(harness)
    known = set(await harness.unaccounted())
    for moment in _moments():
        spec = harness.spec()
        probe = await _opened(harness)
        asked = probe.request(m.CREATE.name, {"deadline_s": 60.0, "spec": _wire(spec)})[1]
        came_so_far = await _reach(probe, asked, moment)
        probe.kill()
        await probe.ended(5.0)
        hidden = await _hidden(harness, known)
        require(
            not hidden, f"killed {moment} a create, the driver left resources that are not listed: {', '.join(hidden)}"
        )
        await _require_told(harness, spec, asked, moment)
        await probe.aclose()
        if not came_so_far:
            return


async def _hidden(harness: Harness, known: set[str]) -> list[str]:
    """Return resources that are not listed, except those *known* before and those that end by themselves."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ENDS_WITHIN_S
    while hidden := [each for each in await harness.unaccounted() if each not in known]:
        if loop.time() > deadline:
            break
        await asyncio.sleep(0.02)
    return hidden


async def _require_told(harness: Harness, spec: InstanceSpec, asked: asyncio.Future[Json], moment: object) -> None:
    """Raise Violation if an instance lacks its metadata or an answered create left none. Deletes the instances."""
    listing = await harness.listed()
    for external_id in await harness.ours(harness.driver):
        metadata = listing[external_id].metadata if external_id in listing else spec.metadata
        wrong = [key for key in spec.metadata if metadata.get(key) != spec.metadata[key]]
        require(not wrong, f"killed {moment} a create, the driver left {external_id} without {', '.join(wrong)}")
    if asked.done() and asked.exception() is None and "result" in asked.result():
        external_id = ExternalId(asked.result()["result"]["external_id"])
        require(
            external_id in listing, f"{external_id} is gone with the driver's process, although its create was answered"
        )
    for external_id in await harness.ours(harness.driver):
        await harness.delete(external_id)


@_check("D8.3", Level.GOLD)
async def what_was_begun_is_gone_on_with(harness: Harness) -> None:
    """The next driver process resumes a wait or a delete during which a driver was killed."""
    _needs(harness)
    for moment in MOMENTS_S[::2]:
        probe = await _opened(harness)
        external_id = await _made(harness, probe)
        await _killed_in(probe, m.WAIT, external_id, moment)
        outcome = await harness.attempt("wait_until_active", harness.active(external_id))
        require(not isinstance(outcome, DriverError), f"after a killed wait, the next wait failed: {outcome}")
        probe = await _opened(harness)
        await _killed_in(probe, m.DELETE, external_id, moment)
        outcome_ = await harness.attempt("delete_instance", harness.delete(external_id))
        require(outcome_ is None, f"after a killed delete, the next delete failed: {outcome_}")
        require(
            external_id not in await harness.listed(), f"{external_id} is listed after a killed delete and a second one"
        )
        left = [name for name, owner in (await _resources(harness)).items() if external_id in (name, owner)]
        require(not left, f"after a killed delete and a second one the cloud still has {', '.join(left)}")


async def _resources(harness: Harness) -> Any:
    return {} if harness.faults.resources is None else await harness.faults.resources()


async def _killed_in(probe: Probe, method: m.Method[Any, Any], external_id: str, moment: float) -> None:
    asked = probe.request(method.name, {"deadline_s": 60.0, "external_id": external_id})[1]
    await asyncio.wait([asked], timeout=moment)
    probe.kill()
    await probe.ended(5.0)
    await probe.aclose()


async def _opened(harness: Harness) -> Probe:
    probe = await harness.probe()
    try:
        await probe.open()
    except (ProbeError, RefusedCall) as error:
        raise Violation(f"the driver could not be restarted: {error}") from None
    return probe


async def _made(harness: Harness, probe: Probe) -> ExternalId:
    try:
        answer = await probe.ask(m.CREATE.name, spec=_wire(harness.spec()))
    except (ProbeError, RefusedCall) as error:
        raise Violation(f"a create failed: {error}") from None
    return ExternalId(answer["external_id"])


def _wire(spec: InstanceSpec) -> Json:
    return m.Spec.model_validate(spec).model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class _Moment:
    """When to kill the process: after *after_s* seconds, or after *notes* notifications of progress."""

    after_s: float = 0.0
    notes: int = 0

    def __str__(self) -> str:
        return f"at stage {self.notes} of" if self.notes else f"{self.after_s * 1000:g} ms into"


def _moments() -> Iterator[_Moment]:
    yield from map(_Moment, MOMENTS_S)
    yield from (_Moment(notes=notes) for notes in range(1, MAX_STAGES + 1))


async def _reach(probe: Probe, asked: asyncio.Future[Json], moment: _Moment) -> bool:
    """Wait for *moment*. Return False if the call ended first: there are no later moments then."""
    if moment.notes:
        return await probe.noted(moment.notes, asked)
    await asyncio.wait([asked], timeout=moment.after_s)
    return True
