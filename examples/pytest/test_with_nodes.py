"""Tests that use nodes: of a fake cloud by default, of real clouds with

    pytest --nodelaunch-config=/etc/nodepool/nodepool.yaml

where a launcher with that configuration runs. Tests that are coroutines need pytest-asyncio. Nodes are given back after
each test, however it ends.
"""

import pytest


async def test_two_machines_talk_to_each_other(nodes):
    server, client = await nodes("debian-12", "debian-12")
    assert server.interface_ip != client.interface_ip


def test_without_an_event_loop(nodes):
    (machine,) = nodes.wait("windows-2022")
    assert machine.type == ("windows-2022",)


def test_one_machine(node):
    """Use a node of the first label in nodelaunch_labels."""
    assert node.type == ("debian-12",)


@pytest.mark.nodelaunch("windows-2022", tenant="acme")
def test_one_machine_of_another_kind(node):
    assert (node.type, node.tenant_name) == (("windows-2022",), "acme")
