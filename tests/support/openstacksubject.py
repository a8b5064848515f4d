"""The OpenStack driver on the control plane, as a subject of the conformance checks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodelaunch.drivers.conformance import Hooks, Resources, Subject
from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.drivers.openstack.driver import OpenStackDriver
from nodelaunch.protocol.driver import DriverContext, ExternalId
from support.fakeclouds import NoScanner
from support.openstack import Lab, pool, provider


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
