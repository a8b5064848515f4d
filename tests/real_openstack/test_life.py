"""Requests are served from a real OpenStack, and nothing is left there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState
from support.openstack import DEADLINE_S, PROVIDER, Found, Lab, Start
from support.process import run

QUICK_SWEEPS = (
    "import nodelaunch.engine.cleanup.sweeper as s; s.SWEEP_S = 2.0; from nodelaunch.cli.main import main; main()"
)
"""A ``nodelaunch`` whose periodic clean-up comes every two seconds rather than each minute."""

pytestmark = pytest.mark.openstack


async def test_nodes_are_what_their_labels_say_and_leave_nothing(lab: Lab, launcher: Start) -> None:
    site = await launcher()
    seen: list[Found] = []

    def look(nodes: Sequence[Node]) -> None:
        seen.append(lab.found())
        for node in nodes:
            server = lab.cloud().compute.get_server(node.external_id)
            assert server.name == f"np{node.id}"
            assert server.metadata["nodepool_node_id"] == node.id
            assert server.metadata["nodepool_provider_name"] == PROVIDER
            assert server.availability_zone == node.az
            assert server.host_id == node.host_id

    plain, floating, volume = await site.job("plain", "floating", "volume", use=look)
    assert {plain.az, floating.az, volume.az} < {"az-a", "az-b"}
    assert plain.interface_ip == plain.private_ipv4
    assert plain.public_ipv4 == ""
    assert str(plain.interface_ip).startswith("127.28.")
    assert floating.interface_ip == floating.public_ipv4
    assert str(floating.public_ipv4).startswith("127.29.")
    assert str(floating.private_ipv4).startswith("10.28.")
    assert (plain.cloud, plain.region, plain.username) == ("devcloud", "RegionOne", "zuul")
    assert {"instances": 1, "volumes": 1, "volume-gb": 1}.items() <= (volume.resources or {}).items()
    assert {"instances": 1, "ports": 1, "floating-ips": 1}.items() <= (floating.resources or {}).items()
    (found,) = seen
    assert (len(found.servers), len(found.ports), len(found.floating_ips), len(found.volumes)) == (3, 3, 1, 1)
    assert {node.state for node in (plain, floating, volume)} == {NodeState.IN_USE}
    await site.until_empty()
    assert lab.found() == Found()
    assert site.complaints == []


def litter(lab: Lab, metadata: dict[str, str], description: str) -> set[str]:
    """A server, a floating IP and a volume that say they are *metadata*'s and *description*'s; their ids."""
    cloud = lab.cloud()
    (image,) = cloud.image.images(name="debian-12")
    network, flavor = cloud.network.find_network("loopnet"), cloud.compute.find_flavor("lab.tiny")
    server = cloud.compute.create_server(
        name="left", image_id=image.id, flavor_id=flavor.id, networks=[{"uuid": network.id}], metadata=metadata
    )
    ip = cloud.network.create_ip(floating_network_id=cloud.network.find_network("public").id, description=description)
    volume = cloud.block_storage.create_volume(size=1, name="left", metadata=metadata)
    cloud.block_storage.wait_for_status(volume, "available", interval=1, wait=DEADLINE_S)
    return {server.id, ip.id, volume.id}


async def test_what_is_left_of_our_nodes_is_listed_then_deleted_and_nothing_else_is(lab: Lab, launcher: Start) -> None:
    marks = {"nodepool_node_id": "0000099999", "nodepool_provider_name": PROVIDER}
    ours = await asyncio.to_thread(litter, lab, marks, f"nodelaunch node 0000099999 of provider {PROVIDER}")
    others = await asyncio.to_thread(litter, lab, {"nodepool_provider_name": "another"}, "somebody's")
    site = await launcher(is_started=False)
    await site.start()
    await site.registered()
    done = await asyncio.to_thread(run, "leaks", "--json", "-c", str(site.config), timeout_s=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert {row["external_id"] for row in rows} == ours
    assert {row["kind"] for row in rows} == {"instance", "floating-ip", "volume"}
    await site.kill()
    await site.start("-c", QUICK_SWEEPS)
    for kind in ("instance", "floating-ip", "volume"):
        assert (await site.logged("leak_deleted", kind=kind))["node_id"] == "0000099999"
    found = await asyncio.to_thread(lab.found)
    assert (len(found.servers), len(found.floating_ips), len(found.volumes)) == (1, 1, 1)
    assert not [entry for entry in site.entries if entry.get("external_id") in others]
    assert site.complaints == []
