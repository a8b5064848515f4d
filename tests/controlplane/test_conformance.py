"""The driver keeps every rule of its contract on a real OpenStack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nodelaunch.drivers.conformance import Hooks, Resources, Subject, Verdict, run
from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.drivers.openstack.driver import OpenStackDriver
from nodelaunch.protocol.driver import DriverContext, ExternalId
from support.fakeclouds import NoScanner
from support.openstack import Found, Lab, pool, provider

pytestmark = pytest.mark.openstack

DEADLINE_S = 1200.0


def subject_of(lab: Lab, label: str) -> Subject:
    config = OpenStackProvider.model_validate(provider(pool([label])))

    async def resources() -> Resources:
        return await asyncio.to_thread(listed)

    def listed() -> Resources:
        cloud = lab.cloud()
        found = {server.id: server.id for server in cloud.compute.servers()}
        ports = {port.id: port.device_id for port in cloud.network.ports(project_id=cloud.current_project_id)}
        ips = {ip.id: ports[ip.port_id] for ip in cloud.network.ips(project_id=cloud.current_project_id) if ip.port_id}
        return {**found, **{port_id: server_id for port_id, server_id in ports.items() if server_id in found}, **ips}

    @asynccontextmanager
    async def foreign_instance() -> AsyncIterator[ExternalId]:
        compute = lab.cloud().compute
        (image,) = lab.cloud().image.images(name="debian-12")
        server = await asyncio.to_thread(
            lambda: compute.create_server(
                name="foreign", image_id=image.id, flavor_id=compute.find_flavor("lab.tiny").id, networks="none"
            )
        )
        yield ExternalId(server.id)
        await asyncio.to_thread(compute.delete_server, server)

    @asynccontextmanager
    async def boot_held() -> AsyncIterator[None]:
        await lab.fault("set", "spawn_delay=5")
        try:
            yield
        finally:
            await lab.fault("clear")

    hooks = Hooks(resources=resources, foreign_instance=foreign_instance, boot_held=boot_held)
    return Subject(
        name="openstack",
        open=lambda: OpenStackDriver(config, DriverContext(NoScanner())),
        pool="main",
        label=label,
        hooks=hooks,
        deadline_s=120.0,
    )


@pytest.mark.parametrize("label", ["plain", "floating"])
async def test_openstack_driver_keeps_every_rule(lab: Lab, monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(lab.clouds))
    async with asyncio.timeout(DEADLINE_S):
        report = await run(subject_of(lab, label))
    assert report.ok, str(report)
    assert not [result for result in report.results if result.verdict is Verdict.FAILED], str(report)
    assert await asyncio.to_thread(lab.found) == Found()
