"""nodelaunch and nodepool-launcher with the same provider: when one dies, the other makes up for it."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from support.nodepool import Daemon, Load, Site, commands_fixture, nodepool_fixture, site_fixture  # noqa: F401  fixtures
from support.process import Serve

pytestmark = [pytest.mark.nodepool, pytest.mark.zookeeper]

CONFIG = """
labels: [{{name: small}}]
providers:
  - name: shared
    driver: fake
    cloud: fake
    rate: 0.0001
    boot-time: {boot_time}
    priority: {priority}
    cloud-images: [{{name: image, image-id: fake-image-id, username: zuul}}]
    pools:
      - name: main
        max-servers: {servers}
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""
FIRST, SECOND = 1, 2
"""Priorities: the launcher with the first takes all free capacity, the one with the second gets the rest."""


def start(
    site: Site, *, nodelaunch: dict[str, Any], nodepool: dict[str, Any], is_quick: bool = False
) -> tuple[Serve, Daemon]:
    common = {"boot_time": 0, "servers": 5}
    theirs, ours = (CONFIG.format(**{**common, **each}) for each in (nodepool, nodelaunch))
    launcher = site.launcher(site.config("nodepool", theirs), is_quick=is_quick)
    serve = site.serve(site.config("nodelaunch", ours), is_quick=is_quick)
    site.await_pools(2)
    return serve, launcher


def makers(site: Site, *node_ids: str) -> set[str]:
    """The versions of the programs whose pools made these nodes."""
    versions = {pool["id"]: pool["version"] for pool in site.pools()}
    return {versions.get(site.requestor.node(node_id)["launcher"], "dead") for node_id in node_ids}


def test_nodelaunch_makes_up_for_a_nodepool_that_dies_while_it_launches(site: Site) -> None:
    """nodelaunch may resume with the records of building nodes: the instances are its own, Nodepool's fake ones
    died.
    """
    serve, launcher = start(site, nodelaunch={"priority": SECOND}, nodepool={"priority": FIRST})
    used = site.requestor.submit("small")
    site.requestor.await_state(used, "fulfilled")
    with site.requestor.accepted(used):
        request_id = site.requestor.submit("small", "small")
        site.requestor.await_children("/nodepool/nodes", lambda names: len(names) == 3)
        launcher.kill()
        assert site.requestor.request(request_id)["state"] == "pending"
        request = site.requestor.await_state(request_id, "fulfilled", "failed")
        assert (request["state"], request["declined_by"]) == ("fulfilled", [])
        assert makers(site, *request["nodes"]) == {site.await_pools(1)[0]["version"]}
    with site.requestor.accepted(request_id):
        pass
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    assert serve.stop() == 0
    assert serve.complaints == []


def test_nodelaunch_makes_up_for_a_nodepool_that_dies_while_it_waits_for_room(site: Site) -> None:
    serve, launcher = start(site, nodelaunch={"priority": SECOND}, nodepool={"priority": FIRST, "servers": 1})
    used = site.requestor.submit("small")
    site.requestor.await_state(used, "fulfilled")
    with site.requestor.accepted(used):
        request_id = site.requestor.submit("small")
        site.requestor.await_state(request_id, "pending")
        launcher.await_log("Not enough quota remaining")
        launcher.kill()
        request = site.requestor.await_state(request_id, "fulfilled", "failed")
        assert request["state"] == "fulfilled"
        assert makers(site, *request["nodes"]) == {site.await_pools(1)[0]["version"]}
    with site.requestor.accepted(request_id):
        pass
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    assert serve.stop() == 0
    assert serve.complaints == []


def test_nodepool_makes_up_for_a_nodelaunch_that_dies(site: Site) -> None:
    slow = {"priority": FIRST, "boot_time": 3600}
    serve, launcher = start(site, nodelaunch=slow, nodepool={"priority": SECOND}, is_quick=True)
    request_id = site.requestor.submit("small", "small")
    site.requestor.await_state(request_id, "pending")
    building = site.requestor.await_children("/nodepool/nodes", lambda names: len(names) == 2)
    serve.kill()
    request = site.requestor.await_state(request_id, "fulfilled", "failed")
    assert (request["state"], request["declined_by"]) == ("fulfilled", [])
    assert not {*building} & {*request["nodes"]}
    assert makers(site, *request["nodes"]) == {site.await_pools(1)[0]["version"]}
    with site.requestor.accepted(request_id):
        pass
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    assert serve.complaints == []
    assert launcher.stop() == 0
    assert launcher.complaints == []


def test_both_serve_one_provider_and_delete_each_others_nodes(site: Site) -> None:
    """Neither stands in the other's way, though each sees the other's used nodes as its own to delete."""
    few = {"priority": FIRST, "servers": 4}
    serve, launcher = start(site, nodelaunch=few, nodepool={**few, "servers": 10}, is_quick=True)
    load = Load(site.requestor, itertools.repeat(("small",), 100), workers=15)
    load.finish()
    assert Counter(node["id"] for node in load.nodes).most_common(1)[0][1] == 1
    assert len({node["launcher"] for node in load.nodes}) == 2
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    assert launcher.stop() == 0
    assert serve.stop() == 0
    assert launcher.complaints == []
    assert serve.complaints == []
