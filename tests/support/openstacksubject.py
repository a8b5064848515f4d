"""The OpenStack driver on the control plane, as a subject of the conformance checks.

Its faults are the control plane's own where it has such a knob; the others are answers of a proxy before Nova.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from nodelaunch.conformance import CloudFaults, DriverUnderTest, Resources
from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.drivers.openstack.driver import OpenStackDriver
from nodelaunch.errors import ErrorKind
from nodelaunch.protocol.driver import DriverContext, ExternalId, FaultOffer
from support.fakeclouds import NoScanner
from support.openstack import Lab, pool, provider
from support.proxy import Answer, Proxy

MANY: Final = 10_000
_CREATE, _DELETE, _WAIT = "create_instance", "delete_instance", "wait_until_active"
QUOTA = {"forbidden": {"code": 403, "message": "Quota exceeded for instances: Requested 1, but already used 10 of 10"}}

ANSWERS: Final = {
    FaultOffer("Nova refuses for quota", _CREATE, ErrorKind.QUOTA): Answer(
        "POST", "/servers$", 403, body=json.dumps(QUOTA).encode()
    ),
    FaultOffer("Nova is asked too often", _CREATE, ErrorKind.RATE_LIMIT, 2.0): Answer(
        "POST", "/servers$", 429, {"Retry-After": "2"}
    ),
    FaultOffer("Nova is in maintenance", _CREATE, ErrorKind.TRANSIENT, 2.0): Answer(
        "POST", "/servers$", 503, {"Retry-After": "2"}, b"maintenance"
    ),
    FaultOffer("Nova's answer is lost", _CREATE, ErrorKind.TRANSIENT): Answer("POST", "/servers$", 502, is_lie=True),
    FaultOffer("Nova does not list", "list_instances", ErrorKind.TRANSIENT): Answer("GET", "/servers/detail", 500),
    FaultOffer("Nova does not tell its limits", "quota_limits", ErrorKind.TRANSIENT): Answer("GET", "/limits", 500),
}
KNOBS: Final = {
    FaultOffer("hosts give up a boot", _WAIT, ErrorKind.PERMANENT): "spawn_abort=1",
    FaultOffer("hosts fail to delete", _DELETE, ErrorKind.PERMANENT): "destroy_fail=1",
}


def subject_of(lab: Lab, label: str, proxy: Proxy | None = None) -> DriverUnderTest:
    """*proxy*: before Nova, and the way by which the driver goes there; without one nothing can be made to fail."""
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
    async def knob(setting: str) -> AsyncIterator[None]:
        await lab.fault("set", setting)
        try:
            yield
        finally:
            await lab.fault("clear")

    @asynccontextmanager
    async def answering(proxy: Proxy, answer: Answer) -> AsyncIterator[None]:
        proxy.answers = [replace(answer, times=MANY)]
        try:
            yield
        finally:
            proxy.answers = []

    @asynccontextmanager
    async def list_lags(proxy: Proxy) -> AsyncIterator[None]:
        known = set(await asyncio.to_thread(lambda: {server.id for server in lab.cloud().compute.servers()}))

        def rewrite(asked: str, body: bytes) -> bytes:
            if not asked.startswith("GET ") or "/servers/detail" not in asked:
                return body
            content = json.loads(body)
            return json.dumps({**content, "servers": [s for s in content["servers"] if s["id"] in known]}).encode()

        proxy.rewrite = rewrite
        try:
            yield
        finally:
            proxy.rewrite = None

    faults = CloudFaults(
        resources=resources, foreign_instance=foreign_instance, boot_held=partial(knob, "spawn_delay=5")
    )
    if proxy is not None:
        named = {offer.name: partial(answering, proxy, answer) for offer, answer in ANSWERS.items()}
        named |= {offer.name: partial(knob, setting) for offer, setting in KNOBS.items()}
        offers = {offer.name: offer for offer in (*ANSWERS, *KNOBS)}
        faults = replace(faults, named=named, offers=offers, list_lags=partial(list_lags, proxy))
    return DriverUnderTest(
        name="openstack",
        open=lambda: OpenStackDriver(config, DriverContext(NoScanner())),
        pool="main",
        label=label,
        faults=faults,
        deadline_s=120.0,
    )
