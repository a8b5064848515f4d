"""The checks can fail: each broken driver is caught by those of the rule it breaks, and by no others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from conformance.mutants.inline import MUTANTS, Mutant
from conformance.mutants.process import MUTANTS as PROCESS_MUTANTS
from nodelaunch.conformance import CHECKS, DriverUnderTest, Report, run
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.drivers.static import PLUGIN
from nodelaunch.drivers.static.driver import StaticDriver
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.driver import DriverContext, Machine
from support.fakeclouds import fake_subject

DEADLINE_S = 120.0


async def report_on(driver: type[FakeDriver], **more: object) -> Report:
    cloud = FakeCloud()
    subject = fake_subject(cloud, lambda config, context, shared: driver(config, context, cloud=shared), **more)
    cloud.update({"boot-time": 0.004, "delete-time": 0.002, "create-time": 0.002})
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await run(subject)
    finally:
        cloud.close()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.driver.__name__)
async def test_broken_driver_is_caught_by_its_rule(mutant: Mutant) -> None:
    report = await report_on(mutant.driver, deadline_s=mutant.deadline_s, max_block_s=mutant.max_block_s)
    assert report.broken_rules == set(mutant.rules.split()), str(report)
    assert {result.check for result in report.failures} == set(mutant.checks), str(report)
    assert all(result.detail for result in report.failures)


@pytest.mark.parametrize("fault", ["others each time", "a slot twice", "none"])
async def test_inventory_that_names_its_machines_wrongly_is_caught(fault: str) -> None:
    class Forgetful(StaticDriver):
        numbers = itertools.count(1)

        def machines(self) -> Sequence[Machine]:
            (machine,) = super().machines()
            match fault:
                case "others each time":
                    return [replace(machine, slot=next(self.numbers))]
                case "a slot twice":
                    return [machine, machine]
                case _:
                    return []

    node = {"name": "127.0.0.1", "labels": ["small"], "connection-port": 1, "timeout": 1}
    content = {"name": "racks", "driver": "static", "pools": [{"name": "main", "nodes": [node]}]}
    config = PLUGIN.config_model.model_validate(content)
    subject = DriverUnderTest(
        name="static", open=lambda: Forgetful(config, DriverContext(SshScanner())), pool="main", label="small",
        deadline_s=30.0,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        report = await run(subject)
    assert [result.check for result in report.failures] == ["machines_are_named_alike"], str(report)


def test_every_check_has_a_mutant() -> None:
    named = {name for mutant in MUTANTS for name in mutant.checks} | {check for _, _, check in PROCESS_MUTANTS.values()}
    assert {check.name for check in CHECKS} == named | {"machines_are_named_alike"}
    assert len(MUTANTS) + len(PROCESS_MUTANTS) >= 60
    assert all(check.promise for check in CHECKS)
    assert len({check.name for check in CHECKS}) == len(CHECKS)
