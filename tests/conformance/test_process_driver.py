"""A driver keeps every rule in a process of its own as it does within the launcher's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodelaunch.conformance import CHECKS, DriverUnderTest, run
from nodelaunch.driverhost.process.child import Command
from nodelaunch.driverhost.process.plugin import executable_plugin, isolated
from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.errors import ProviderUnavailableError
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.driver import DriverContext, SupportsInventory
from support import mischief
from support.fakeclouds import NoScanner, fake_provider, fake_subject

DEADLINE_S = 300.0


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[FakeCloud]:
    cloud = FakeCloud(tmp_path / "cloud.sqlite", patience_s=10)
    yield cloud
    cloud.close()


def isolated_subject(cloud: FakeCloud) -> DriverUnderTest:
    """As `fake_subject`, each driver in a process."""
    plugin = isolated(DriverRegistry().get("fake"))
    config = fake_provider(cloud_file=str(cloud.path))
    return replace(fake_subject(cloud), open=lambda: plugin.open(config, DriverContext(NoScanner())))


async def test_verdicts_are_the_same_inline_and_as_process(cloud: FakeCloud) -> None:
    async with asyncio.timeout(DEADLINE_S):
        inline = await run(fake_subject(cloud))
        process = await run(isolated_subject(cloud))
    assert process.ok, str(process)
    assert process.results == inline.results
    assert cloud.servers() == []


async def test_inventory_is_the_same_inline_and_as_process() -> None:
    """The machines exist already; here a machine that does not answer."""
    inline = DriverRegistry().get("static")
    node = {"name": "127.0.0.1", "labels": ["small"], "connection-port": 1, "timeout": 1, "max-parallel-jobs": 2}
    content = {"name": "racks", "driver": "static", "pools": [{"name": "main", "nodes": [node]}]}
    config = inline.config_model.model_validate(content)
    found = []
    for plugin in (inline, isolated(inline)):
        driver = plugin.open(config, DriverContext(SshScanner()))
        assert isinstance(driver, SupportsInventory)
        subject = DriverUnderTest(
            name="static", open=lambda plugin=plugin: plugin.open(config, DriverContext(SshScanner())),
            pool="main", label="small", deadline_s=60.0,
        )  # fmt: skip
        async with asyncio.timeout(DEADLINE_S):
            await driver.quota_limits()
            (machine, other) = driver.machines()
            with pytest.raises(ProviderUnavailableError) as caught:
                await driver.inspect(machine)
            seen = (machine, other, driver.label_traits("main", "small"), str(caught.value))
            found.append((seen, await driver.is_alive(machine), (await run(subject)).results))
            await driver.aclose()
    assert found[0] == found[1]


async def test_machines_that_are_not_known_yet_are_not_none() -> None:
    """Otherwise the engine would withdraw their nodes."""
    plugin = isolated(DriverRegistry().get("static"))
    config = plugin.config_model.model_validate({"name": "racks", "driver": "static"})
    driver = plugin.open(config, DriverContext(NoScanner()))
    assert isinstance(driver, SupportsInventory)
    with pytest.raises(ProviderUnavailableError, match="not reported its machines yet"):
        driver.machines()
    await driver.aclose()


async def test_exception_of_a_driver_elsewhere_breaks_the_rule_it_breaks_here(tmp_path: Path) -> None:
    """The exception arrives as an error of kind ``internal``, which the contract does not allow."""
    command = Command("mischief", (sys.executable, mischief.__file__, "", str(tmp_path)))
    plugin = await asyncio.to_thread(executable_plugin, command)
    label = {"name": "small", "kind": "a"}
    content = {"name": "cloud", "driver": "mischief", "pools": [{"name": "main", "labels": [label]}]}
    config = plugin.config_model.model_validate(content)
    subject = DriverUnderTest(
        name="mischief", open=lambda: plugin.open(config, DriverContext(NoScanner())), pool="main", label="small"
    )
    async with asyncio.timeout(DEADLINE_S):
        report = await run(subject, [check for check in CHECKS if check.name == "nonsense_gives_driver_errors"])
    assert report.broken_rules == {"D7.1"}, str(report)
    assert "KeyError" in str(report)
