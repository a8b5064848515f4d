"""The static driver, with the real scanner, on a machine with a real OpenSSH server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from nodelaunch.drivers.static import PLUGIN, StaticDriver
from nodelaunch.errors import KeyScanError, ProviderUnavailableError
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.driver import DriverContext
from support.sshd import Sshd, SshdFactory, sshd_factory  # noqa: F401  brings the fixture sshd

pytestmark = pytest.mark.sshd

DEADLINE_S = 60.0


def driver_of(
    server: Sshd, *, host_key: Sequence[str] = (), timeout: float = DEADLINE_S, slots: int = 1
) -> StaticDriver:
    node = {
        "name": server.host,
        "labels": ["bare"],
        "connection-port": server.port,
        "host-key": list(host_key),
        "timeout": timeout,
        "max-parallel-jobs": slots,
    }
    config = PLUGIN.config_model.model_validate(
        {"name": "lab", "driver": "static", "pools": [{"name": "rack", "nodes": [node]}]}
    )
    driver = PLUGIN.open(config, DriverContext(SshScanner()))
    assert isinstance(driver, StaticDriver)
    return driver


async def test_machine_with_its_configured_keys_is_accepted_with_all_its_keys(sshd: SshdFactory) -> None:
    server = sshd()
    await server.start()
    driver = driver_of(server, host_key=[f"{key} root@rack" for key in sorted(server.host_keys)[1:]])
    async with asyncio.timeout(DEADLINE_S):
        found = await driver.inspect(driver.machines()[0])
    assert set(found.host_keys) == server.host_keys
    assert found.public_ipv4 == server.host
    assert found.public_ipv6 is None


async def test_machine_that_came_back_with_other_keys_is_refused(sshd: SshdFactory) -> None:
    server = sshd(["ssh-ed25519"])
    driver = driver_of(server, host_key=list(server.host_keys))
    (machine,) = driver.machines()
    async with asyncio.timeout(DEADLINE_S):
        await server.start()
        await driver.inspect(machine)
        await server.stop()
        server.replace_keys(["ssh-ed25519"])
        await server.start()
        with pytest.raises(KeyScanError, match=r"expected ssh-ed25519 SHA256:\S+, found ssh-ed25519 SHA256:\S+$"):
            await driver.inspect(machine)


async def test_machine_that_goes_and_comes_back(sshd: SshdFactory) -> None:
    server = sshd(["ssh-ed25519"])
    patient, hasty = driver_of(server), driver_of(server, timeout=0.2)
    (machine,) = patient.machines()
    async with asyncio.timeout(DEADLINE_S):
        await server.start()
        assert await patient.is_alive(machine)
        await server.stop()
        assert not await hasty.is_alive(machine)
        with pytest.raises(ProviderUnavailableError, match="Connection refused"):
            await hasty.inspect(machine)
        await server.start()
        assert await patient.is_alive(machine)
        assert set((await patient.inspect(machine)).host_keys) == server.host_keys


async def test_forty_slots_of_one_machine_get_the_same_whole_set_of_keys(sshd: SshdFactory) -> None:
    server = sshd()
    driver = driver_of(server, slots=40)
    async with asyncio.timeout(DEADLINE_S):
        await server.start()
        found = await asyncio.gather(*map(driver.inspect, driver.machines()))
    assert {frozenset(each.host_keys) for each in found} == {frozenset(server.host_keys)}
