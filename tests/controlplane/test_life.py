"""Requests are served from a real OpenStack, and nothing is left there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState
from support.openstack import PROVIDER, Found, Lab, Start

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
    assert plain.public_ipv4 is None
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
