"""The driver keeps the contract, as far as silver; and what the kit can't know of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from nodelaunch.config.file import load_config
from nodelaunch.drivers import DriverRegistry
from nodelaunch.errors import ConfigError, QuotaExceededError
from nodelaunch.protocol.driver import METADATA_NODE_ID, DriverContext, InstanceSpec
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.testing import DriverConformance, DriverUnderTest, Level

from nodelaunch_loopback.config import LoopbackProvider
from nodelaunch_loopback.driver import LoopbackDriver

DEADLINE_S = 60.0
SPEC = InstanceSpec("7", "np7", "main", "small", {METADATA_NODE_ID: "7"})
CONTEXT = DriverContext(SshScanner())


def config(folder: Path, **options: object) -> LoopbackProvider:
    content = {"name": "here", "driver": "loopback", "state-dir": str(folder), **options}
    return LoopbackProvider.model_validate({**content, "pools": [{"name": "main", "labels": [{"name": "small"}]}]})


class TestContract(DriverConformance):
    """Each check of the conformance kit is a test of its own here; what only gold asks for may fail."""

    level = Level.SILVER

    @pytest.fixture
    def under_test(self, tmp_path: Path) -> DriverUnderTest:
        made = config(tmp_path)
        return DriverUnderTest(name="loopback", open=lambda: LoopbackDriver(made, CONTEXT), pool="main", label="small")


def test_its_machines_speak_ssh_with_the_keys_it_tells_of(tmp_path: Path) -> None:
    asyncio.run(_compare_keys(LoopbackDriver(config(tmp_path, port=2322), CONTEXT)))


async def _compare_keys(driver: LoopbackDriver) -> None:
    async with asyncio.timeout(DEADLINE_S):
        external_id = await driver.create_instance(SPEC)
        try:
            machine = await driver.wait_until_active(external_id)
            assert machine.interface_ip is not None
            scanned = await SshScanner().host_keys(machine.interface_ip, 2322, timeout_s=DEADLINE_S)
            assert set(await driver.host_keys(external_id)) == set(scanned)
        finally:
            await driver.delete_instance(external_id)


def test_no_more_machines_than_allowed(tmp_path: Path) -> None:
    driver = LoopbackDriver(config(tmp_path, **{"max-machines": 0}), CONTEXT)
    with pytest.raises(QuotaExceededError):
        asyncio.run(driver.create_instance(SPEC))


def test_addresses_have_to_be_loopback_ones(tmp_path: Path) -> None:
    path = tmp_path / "nodelaunch.yaml"
    path.write_text("providers:\n  - name: here\n    driver: loopback\n    state-dir: /x\n    network: 10.0.0.0/24\n")
    with pytest.raises(ConfigError, match="5:14: network: has to be a part of 127"):
        load_config(path, drivers=DriverRegistry())
