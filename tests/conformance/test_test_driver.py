"""The test driver keeps every rule, on a cloud that outlives it; and its nodes are as Nodepool's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodelaunch.conformance import CloudFaults, DriverUnderTest, Level, Resources, Verdict, run
from nodelaunch.drivers.test import PLUGIN
from nodelaunch.drivers.test.driver import TestCloud, TestDriver
from nodelaunch.protocol.driver import DriverContext, ExternalId, InstanceSpec, SupportsHostKeyScan
from nodelaunch.protocol.quota import NO_LIMITS
from support.fakeclouds import NoScanner

DEADLINE_S = 60.0
CONFIG = PLUGIN.config_model.model_validate(
    {"name": "cloud", "driver": "test", "pools": [{"name": "main", "max-servers": 3, "labels": ["small"]}]}
)


def driver(cloud: TestCloud | None = None) -> TestDriver:
    return TestDriver(CONFIG, DriverContext(NoScanner()), cloud=cloud)


async def test_test_driver_keeps_every_rule() -> None:
    cloud = TestCloud()

    async def resources() -> Resources:
        return {external_id: external_id for external_id in cloud.instances}

    @asynccontextmanager
    async def foreign_instance() -> AsyncIterator[ExternalId]:
        external_id = cloud.add(InstanceSpec("1", "foreign", "main", "small", {}))
        yield external_id
        del cloud.instances[external_id]

    faults = CloudFaults(resources=resources, foreign_instance=foreign_instance)
    subject = DriverUnderTest(
        name="test", open=lambda: driver(cloud), pool="main", label="small", faults=faults, deadline_s=DEADLINE_S / 2
    )
    async with asyncio.timeout(DEADLINE_S):
        report = await run(subject)
    assert report.ok, str(report)
    assert report.level is Level.BRONZE
    skipped = {result.detail.partition(",")[0] for result in report.results if result.verdict is Verdict.SKIPPED}
    assert skipped == {
        "needs faults: ways in which the cloud fails", "needs the fault 'boot-held'", "needs the fault 'list-lags'",
        "needs faults that name their call and kind",
        "needs a process to kill: check the driver with isolation 'process'",
    }  # fmt: skip
    assert cloud.instances == {}


async def test_node_is_ready_at_once_without_address_keys_or_quota() -> None:
    made = PLUGIN.open(CONFIG, DriverContext(NoScanner()))
    async with asyncio.timeout(DEADLINE_S):
        external_id = await made.create_instance(InstanceSpec("1", "np1", "main", "small", {"a": "b"}))
        instance = await made.wait_until_active(external_id)
        assert await made.quota_limits() == NO_LIMITS
    assert instance.is_active
    assert (instance.interface_ip, instance.public_ipv4, instance.private_ipv4, instance.public_ipv6) == (None,) * 4
    assert not made.label_traits("main", "small").host_key_checking
    assert not isinstance(made, SupportsHostKeyScan)


async def test_second_launch_of_a_node_has_another_id() -> None:
    made = driver()
    spec = InstanceSpec("1", "np1", "main", "small", {})
    async with asyncio.timeout(DEADLINE_S):
        first = await made.create_instance(spec)
        second = await made.create_instance(spec)
        await made.delete_instance(first)
        assert [instance.external_id async for instance in made.list_instances()] == [second]
