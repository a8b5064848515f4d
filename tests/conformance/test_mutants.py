"""The checks can fail: each broken driver is caught by those of the rule it breaks, and by no others."""

from __future__ import annotations

import asyncio

import pytest

from conformance.mutants.inline import MUTANTS, Mutant
from nodelaunch.drivers.conformance import Report, run
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.driver import FakeDriver
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
