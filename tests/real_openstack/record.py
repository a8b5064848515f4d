"""Records what a real OpenStack answers to the driver's calls, for tests/unit/test_openstack_client.py to play back.

    PYTHONPATH=tests NODELAUNCH_OPENSTACK_LAB=FOLDER python tests/real_openstack/record.py

It starts the control plane whose scripts are in FOLDER, and puts into its project what the recordings are of. Secrets
are not recorded: only answers are, without tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nodelaunch.drivers.openstack.client import Client
from nodelaunch.drivers.openstack.model import Port
from nodelaunch.errors import DriverError
from support.exchanges import FOLDER, Recorder, client_through
from support.openstack import DEADLINE_S, Lab, why_not

METADATA = {"nodepool_node_id": "0000000007", "nodepool_provider_name": "lab", "nodepool_pool_name": "main"}
GONE = "00000000-0000-4000-8000-000000000000"
"""An id that nothing has."""
Call = Callable[[Client], Awaitable[object]]


class Scene:
    """Resources in the project while it is recorded."""

    def __init__(self, lab: Lab) -> None:
        self.cloud = lab.cloud()
        (self.image,) = self.cloud.image.images(name="debian-12")
        self.flavors = {flavor.name: flavor.id for flavor in self.cloud.compute.flavors()}
        self.networks = {network.name: network.id for network in self.cloud.network.networks()}

    def server(self, name: str, network: str = "loopnet", flavor: str = "lab.tiny", **more: Any) -> dict[str, Any]:
        known = {"name": name, "flavor_id": self.flavors[flavor], "metadata": METADATA}
        image = {} if "block_device_mapping" in more else {"image_id": self.image.id}
        return {**known, **image, "networks": [{"uuid": self.networks[network]}], **more}

    def build(self) -> None:
        compute = self.cloud.compute
        volume = {
            "boot_index": 0, "uuid": self.image.id, "source_type": "image", "destination_type": "volume",
            "volume_size": 1, "delete_on_termination": True,
        }  # fmt: skip
        self.floating = compute.create_server(**self.server("floating", "private"))
        compute.create_server(**self.server("volume", block_device_mapping=[volume]))
        compute.create_server(**self.server("error", flavor="lab.nofit"))
        self.wait({"ACTIVE", "ERROR"}, 3)
        (port,) = self.cloud.network.ports(device_id=self.floating.id)
        self.cloud.network.create_ip(
            floating_network_id=self.networks["public"], port_id=port.id,
            description="nodelaunch node 0000000007 of provider lab",
        )  # fmt: skip
        self.wait_for(lambda: len(compute.get_server(self.floating.id).addresses["private"]) > 1)
        self.slow = compute.create_server(**self.server("building", metadata={**METADATA, "lab_spawn_delay": "60"}))

    def wait(self, statuses: set[str], count: int) -> None:
        self.wait_for(lambda: sum(s.status in statuses for s in self.cloud.compute.servers()) == count)

    @staticmethod
    def wait_for(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.5)

    def port_in(self, network: str) -> Port:
        """A port of a server in *network*."""
        (port, *_) = self.cloud.network.ports(
            network_id=self.networks[network], project_id=self.cloud.current_project_id
        )
        return Port(port.id, port.device_id, port.network_id, port.status, (port.fixed_ips[0]["ip_address"],))


def cases(scene: Scene) -> Iterator[tuple[str, Call]]:
    yield "servers", lambda client: client.servers()
    yield "flavors", lambda client: client.flavors()
    yield "flavor_gone", lambda client: client.flavor(GONE)
    yield "images", lambda client: client.images("debian-12")
    yield "images_none", lambda client: client.images("nothing-is-called-that")
    yield "image_gone", lambda client: client.image_of_id(GONE)
    yield "networks", lambda client: client.networks()
    yield "zones", lambda client: client.zones()
    yield "ports", lambda client: client.ports()
    yield "floating_ips", lambda client: client.floating_ips()
    yield "volumes", lambda client: client.volumes()
    yield "compute_limits", lambda client: client.compute_limits()
    yield "volume_limits", lambda client: client.volume_limits()
    yield "network_limits", lambda client: client.network_limits()
    yield "console", lambda client: client.console(scene.floating.id)
    yield "delete_gone", lambda client: client.delete_server(GONE)
    yield "create", lambda client: client.create_server("create server np", scene.server("np0000000009"))
    huge = scene.server("np", flavor="lab.huge")
    yield "create_beyond_quota", lambda client: client.create_server("create server np", huge)
    gone = {**scene.server("np"), "image_id": GONE}
    yield "create_image_gone", lambda client: client.create_server("create server np", gone)
    nowhere = {**scene.server("np"), "availability_zone": "nowhere"}
    yield "create_zone_gone", lambda client: client.create_server("create server np", nowhere)
    inside, outside = scene.port_in("loopnet"), scene.networks["public"]
    yield (
        "floating_ip_without_router",
        lambda client: client.create_floating_ip(outside, inside, inside.fixed_ips[0], "test"),
    )


@contextmanager
def wrong_password(lab: Lab) -> Iterator[None]:
    """Use an account that has no access."""
    clouds = lab.clouds_with({}, FOLDER)
    content = json.loads(clouds.read_text())
    content["clouds"]["devcloud"]["auth"]["password"] = "wrong"
    clouds.write_text(json.dumps(content))
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(clouds)
    try:
        yield
    finally:
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(lab.clouds)
        clouds.unlink()


async def record(case: str, call: Call) -> None:
    recorder = Recorder()
    client = client_through(recorder)
    try:
        outcome: object = await call(client)
    except DriverError as error:
        outcome = error
    finally:
        await client.aclose()
    (FOLDER / f"{case}.json").write_text(json.dumps(recorder.exchanges, indent=1, sort_keys=True) + "\n")
    print(f"{case}: {len(recorder.exchanges)} exchanges, {str(outcome)[:100]}")  # noqa: T201


async def main() -> None:
    if reason := why_not():
        raise SystemExit(reason)
    FOLDER.mkdir(exist_ok=True)
    lab = Lab()
    lab.start()
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(lab.clouds)
    lab.mend()
    lab.empty()
    scene = Scene(lab)
    scene.build()
    try:
        for case, call in cases(scene):
            await record(case, call)
        with wrong_password(lab):
            await record("wrong_password", lambda client: client.servers())
    finally:
        lab.empty()
        lab.stop()


if __name__ == "__main__":
    asyncio.run(main())
