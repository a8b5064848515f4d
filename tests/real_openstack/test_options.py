"""Servers have the configured options of their label and pool, as openstacksdk shows."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest

from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import RequestState
from support.openstack import DEADLINE_S, Beside, Found, Lab, Start, label, pool, provider

pytestmark = pytest.mark.openstack


async def made(site: Beside, lab: Lab, *labels: str) -> list[tuple[Node, Any]]:
    """Nodes of *labels* and their servers, as they were while they were in use; all gone when it returns."""
    seen: list[tuple[Node, Any]] = []
    admin = lab.cloud("devcloud-admin").compute

    def look(nodes: list[Node]) -> None:
        seen.extend((node, admin.get_server(node.external_id)) for node in nodes)

    await site.job(*labels, use=look)
    await site.until_empty()
    assert await asyncio.to_thread(lab.found) == Found()
    assert site.complaints == []
    return seen


async def test_flavors_are_found_by_name_memory_and_both(lab: Lab, launcher: Start) -> None:
    flavors = {each.name: each for each in lab.cloud().compute.flavors() if each.name.startswith("lab.")}
    wanted = flavors["lab.small"].ram + 1
    enough = [each for each in flavors.values() if each.ram >= wanted]
    smallest = min(enough, key=lambda each: (each.ram, each.vcpus))
    large = min((each for each in enough if "large" in each.name), key=lambda each: (each.ram, each.vcpus))
    by_id = label("by-id", flavor_name=flavors["lab.small"].id)
    by_memory = {"name": "by-memory", "cloud-image": "debian", "min-ram": wanted, "host-key-checking": False}
    by_both = by_memory | {"name": "by-both", "flavor-name": "large"}
    site = await launcher(provider(pool([by_id, by_memory, by_both])))
    seen = await made(site, lab, "by-id", "by-memory", "by-both")
    assert [server.flavor.name for _, server in seen] == ["lab.small", smallest.name, large.name]
    assert [(node.resources or {})["ram"] for node, _ in seen] == [flavors["lab.small"].ram, smallest.ram, large.ram]


async def test_images_are_found_by_name_and_by_id(lab: Lab, launcher: Start) -> None:
    ids = {image.name: image.id for image in lab.cloud().image.images()}
    images = [
        {"name": "ubuntu-noble"},
        {"name": "named", "image-name": "debian-12"},
        {"name": "by-id", "image-id": ids["ubuntu-jammy"], "username": "ubuntu", "python-path": "/usr/bin/python3"},
    ]
    labels = [label(each["name"], cloud_image=each["name"]) for each in images]
    site = await launcher(provider(pool(labels), cloud_images=images))
    seen = await made(site, lab, *(each["name"] for each in images))
    assert [server.image.id for _, server in seen] == [
        ids[name] for name in ("ubuntu-noble", "debian-12", "ubuntu-jammy")
    ]
    assert (seen[2][0].username, seen[2][0].python_path) == ("ubuntu", "/usr/bin/python3")


async def test_what_a_label_gives_its_servers_is_theirs(lab: Lab, launcher: Start) -> None:
    given = label(
        "given", key_name="launcher-key", userdata="#cloud-config\n{}\n",
        instance_properties={"team": "qa"}, dynamic_instance_properties={"asked-by": "{request.requestor}"},
    )  # fmt: skip
    images = [{"name": "debian", "image-name": "debian-12", "config-drive": True}]
    site = await launcher(provider(pool([given], node_attributes={"rack": "7"}), cloud_images=images))
    ((node, server),) = await made(site, lab, "given")
    assert server.key_name == "launcher-key"
    assert server.has_config_drive in (True, "True")
    assert server.metadata["team"] == "qa"
    assert server.metadata["asked-by"] == site.client.requestor
    assert base64.b64decode(server.user_data or "").decode() == "#cloud-config\n{}\n"
    assert [group["name"] for group in server.security_groups] == ["launcher"]
    assert node.attributes == {"rack": "7"}


@pytest.fixture
def server_group(lab: Lab) -> Iterator[Any]:
    compute = lab.cloud().compute
    for left in compute.server_groups():
        compute.delete_server_group(left)
    group = compute.create_server_group(name="apart", policy="anti-affinity")
    yield group
    compute.delete_server_group(group)


async def test_servers_of_a_group_are_kept_apart(lab: Lab, launcher: Start, server_group: Any) -> None:
    site = await launcher(provider(pool([label("apart", server_group="apart")], zone_policy="none")))
    seen = await made(site, lab, "apart", "apart", "apart")
    assert len({server.compute_host for _, server in seen}) == 3


@pytest.fixture
def volume_type(lab: Lab) -> Iterator[str]:
    storage = lab.cloud("devcloud-admin").block_storage
    for left in [each for each in storage.types() if each.name == "quick"]:
        storage.delete_type(left)
    made = storage.create_type(name="quick")
    yield made.name
    storage.delete_type(made)


async def test_boot_volumes_are_of_the_type_asked_for(lab: Lab, launcher: Start, volume_type: str) -> None:
    quick = label("quick", boot_from_volume=True, volume_size=2, volume_type=volume_type)
    site = await launcher(provider(pool([quick])))
    seen: list[Any] = []
    await site.job("quick", use=lambda _nodes: seen.extend(lab.cloud().block_storage.volumes()))
    ((size, kind, marks),) = [(volume.size, volume.volume_type, volume.metadata) for volume in seen]
    assert (size, kind) == (2, "quick")
    assert marks["nodepool_provider_name"] == "lab"
    await site.until_empty()
    assert await asyncio.to_thread(lab.found) == Found()
    assert site.complaints == []


async def test_addresses_are_those_asked_for(lab: Lab, launcher: Start) -> None:
    def alone(name: str, networks: list[str], **more: Any) -> dict[str, Any]:
        return pool([label(name, networks=networks)], name=name, **more)

    site = await launcher(
        provider(
            alone("named", ["private"], floating_ip_network="public"),
            alone("internal", ["private"], use_internal_ip=True),
            alone("bare", ["private"], auto_floating_ip=False),
            alone("two", ["loopnet", "private"], auto_floating_ip=False),
        )
    )
    nodes = {}
    for name in ("named", "internal", "bare", "two"):
        ((nodes[name], _),) = await made(site, lab, name)
    assert nodes["named"].interface_ip == nodes["named"].public_ipv4
    assert str(nodes["named"].public_ipv4).startswith("127.29.")
    assert str(nodes["internal"].public_ipv4).startswith("127.29.")
    assert nodes["internal"].interface_ip == nodes["internal"].private_ipv4
    assert nodes["bare"].public_ipv4 == ""
    for name in ("internal", "bare"):
        assert str(nodes[name].interface_ip).startswith("10.28.")
    assert str(nodes["two"].interface_ip).startswith("127.28.")


@pytest.mark.parametrize(("policy", "zones"), [("together", 1), ("spread", 2)])
async def test_zones_are_shared_or_spread_over(lab: Lab, launcher: Start, policy: str, zones: int) -> None:
    site = await launcher(provider(pool(["plain"], zone_policy=policy)))
    seen = await made(site, lab, "plain", "plain", "plain")
    assert len({node.az for node, _ in seen}) == zones
    assert [server.availability_zone for _, server in seen] == [node.az for node, _ in seen]


async def test_networks_may_be_left_to_the_cloud(lab: Lab, launcher: Start) -> None:
    """This one has several, so that it refuses to choose: the request is declined in its words."""
    site = await launcher(provider(pool(["plain"], networks=[], security_groups=[]), launch_retries=1))
    async with asyncio.timeout(DEADLINE_S):
        request = await (await site.client.submit(["plain"])).finished()
    told = await site.explain(request)
    assert request.state is RequestState.FAILED, told
    assert "Multiple possible networks found" in told or "network" in (await site.logged("launch_failed"))["detail"]
    await site.until_empty()
    assert await asyncio.to_thread(lab.found) == Found()
