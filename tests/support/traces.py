"""Answers of a driver to a fixed sequence of calls, as lines that can be compared with another driver's.

Ids are numbered in order of appearance, and addresses are reduced to their kind. Everything else is unchanged.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from nodelaunch.driverhost.wire import messages as m
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_POOL,
    METADATA_PROVIDER,
    Driver,
    ExternalId,
    Instance,
    InstanceSpec,
    Machine,
    SupportsConsoleLog,
    SupportsHostKeyScan,
    SupportsInventory,
    SupportsLeftovers,
    SupportsUpkeep,
    SupportsZones,
)
from nodelaunch.protocol.faults import fault_of

NOWHERE = ExternalId("00000000-0000-4000-8000-000000000000")
_OPTIONAL: Sequence[type] = (
    SupportsZones, SupportsHostKeyScan, SupportsConsoleLog, SupportsInventory, SupportsLeftovers, SupportsUpkeep,
)  # fmt: skip


class Trace:
    """Lines so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._ids: dict[str, str] = {}

    def name(self, external_id: str) -> None:
        """Replace *external_id* by its number from now on."""
        self._ids.setdefault(external_id, f"<id {len(self._ids) + 1}>")

    async def call(self, what: str, asked: Awaitable[Any]) -> Any:
        """Note the outcome of a call; it, or None for an error."""
        try:
            result = await asked
        except DriverError as error:
            self.note(what, f"{type(error).__name__} {fault_of(error)}")
            return None
        if isinstance(result, str):
            self.name(result)
        self.note(what, _plain(result))
        return result

    def note(self, what: str, said: object) -> None:
        text = str(said)
        for external_id, name in self._ids.items():
            text = text.replace(external_id, name)
        text = re.sub(r"\b\d+\.\d+\.\d+\.\d+\b", "<IPv4>", text)
        text = re.sub(r"('host_id': ')[^']+", r"\1<host>", text)  # the cloud's choice
        self.lines.append(f"{what}: {text}")


def _plain(result: Any) -> object:
    match result:
        case Instance():
            return m.InstanceInfo.model_validate(result).model_dump(exclude_defaults=True)
        case list() | tuple():
            return sorted(str(_plain(each)) for each in result)
        case _:
            return result


def spec_for(pool: str, label: str, provider: str) -> InstanceSpec:
    node_id = "0000000042"
    metadata = {METADATA_NODE_ID: node_id, METADATA_POOL: pool, METADATA_PROVIDER: provider}
    return InstanceSpec(node_id, f"np{node_id}", pool, label, metadata, request={"id": "100-1", "labels": [label]})


async def trace_of(
    driver: Driver, pool: str, label: str, *, provider: str = "cloud",
    complete: Callable[[InstanceSpec], InstanceSpec] = lambda spec: spec,
) -> list[str]:  # fmt: skip
    """An instance's life and what goes wrong around it; *driver* is closed at its end."""
    trace = Trace()
    upkeep = asyncio.ensure_future(driver.upkeep()) if isinstance(driver, SupportsUpkeep) else None
    try:
        await trace.call("limits", driver.quota_limits())
        trace.note("can", [kind.__name__ for kind in _OPTIONAL if isinstance(driver, kind)])
        for each in (label, "no-such-label"):
            await trace.call(f"usage of {each}", driver.quota_for_label(pool, each))
            await trace.call(f"ready {each}", driver.label_ready(pool, each))
        trace.note("traits", driver.label_traits(pool, label))
        if isinstance(driver, SupportsInventory):
            await _look_at(driver, trace)
        else:
            zones = await driver.zones() if isinstance(driver, SupportsZones) else ()
            spec = replace(spec_for(pool, label, provider), zone=zones[0] if zones else None)  # else it may be drawn
            await _live(driver, trace, complete(spec))
    finally:
        if upkeep is not None:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
        await trace.call("close", driver.aclose())
    return trace.lines


async def _live(driver: Driver, trace: Trace, spec: InstanceSpec) -> None:
    await trace.call("create of an unknown label", driver.create_instance(replace(spec, label="no-such-label")))
    external_id = await trace.call("create", driver.create_instance(spec))
    assert external_id is not None, trace.lines
    await trace.call("wait", driver.wait_until_active(external_id))
    await trace.call("list", _listed(driver))
    if isinstance(driver, SupportsHostKeyScan):
        await trace.call("host keys", driver.host_keys(external_id))
    if isinstance(driver, SupportsZones):
        await trace.call("zones", driver.zones())
    for _ in range(2):
        await trace.call("delete", driver.delete_instance(external_id))
    await trace.call("wait for what is gone", driver.wait_until_active(external_id))
    await trace.call("list afterwards", _listed(driver))
    await trace.call("wait for nothing", driver.wait_until_active(NOWHERE))
    await trace.call("delete nothing", driver.delete_instance(NOWHERE))


async def _look_at(driver: SupportsInventory, trace: Trace) -> None:
    machines: Sequence[Machine] = driver.machines()
    trace.note("machines", tuple(machines))
    for machine in machines:
        await trace.call(f"inspect {machine.name}", driver.inspect(machine))
        await trace.call(f"alive {machine.name}", driver.is_alive(machine))


async def _listed(driver: Driver) -> list[Instance]:
    return [instance async for instance in driver.list_instances()]
