"""Nodepool's command line while nodelaunch serves: conformance check C13, and what it has to be able to print."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from peers.site import await_servers
from support.nodepool import CommandResult, Load, Site, commands_fixture, nodepool_fixture, site_fixture  # noqa: F401  fixtures

pytestmark = [pytest.mark.nodepool, pytest.mark.zookeeper]

CONFIG = """
labels: [{{name: small}}, {{name: big}}, {{name: kept, min-ready: 2}}]
providers:
  - name: cloud
    driver: fake
    cloud: fake
    boot-time: 0.2
    cloud-file: {cloud_file}
    cloud-images: [{{name: image, username: zuul}}]
    pools:
      - name: main
        max-servers: 16
        labels:
          - {{name: small, cloud-image: image, min-ram: 8192}}
          - {{name: big, cloud-image: image, flavor-name: Fake Flavor}}
          - {{name: kept, cloud-image: image, min-ram: 8192}}
"""


class Operator:
    """An operator at Nodepool's command line, who sees no exception there."""

    def __init__(self, site: Site, cloud_file: Path) -> None:
        self.site = site
        self.config = site.config("nodepool", CONFIG.format(cloud_file=cloud_file))

    def does(self, *arguments: str) -> CommandResult:
        for _ in range(3):
            done = self.site.nodepool(self.config, *arguments)
            # A listing fails if any client deletes a node between two of its reads.
            if not (arguments[0] == "list" and "getNodeLockContenders" in done.err and "NoNodeError" in done.err):
                break
        assert done.is_good, done
        return done

    def sees(self, state: str, *, label: str = "kept", count: int = 1) -> list[str]:
        """The ids of at least *count* nodes that are listed with *label* in *state*; waits for them."""
        deadline = time.monotonic() + self.site.requestor.deadline_s
        while True:
            rows = self.does("list").rows
            found = [row["ID"] for row in rows if (row["Label"], row["State"]) == (label, state)]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, rows


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[FakeCloud]:
    made = FakeCloud(tmp_path / "cloud.sqlite", patience_s=5)
    yield made
    made.close()


@pytest.fixture
def operator(site: Site, cloud: FakeCloud) -> Operator:
    return Operator(site, site.folder / "cloud.sqlite")


def node_path(node_id: str) -> str:
    return f"/nodepool/nodes/{node_id}"


def test_commands_under_load_have_the_effects_they_have_with_nodepool(
    site: Site, operator: Operator, cloud: FakeCloud
) -> None:
    serve = site.serve(operator.config, is_quick=True)
    jobs = itertools.cycle([("small",), ("big", "small"), ("small", "small", "big")])
    with Load(site.requestor, jobs, workers=2):
        held, *_ = operator.sees("ready", count=2)
        assert operator.does("hold", held).rows[0]["State"] == "hold"
        operator.does("list", "--detail")
        assert operator.does("request-list").rows
        assert held in operator.does("info", "cloud").out
        removed, deleted = operator.sees("ready", count=2)  # the held one has been made up for
        assert held not in (removed, deleted)

        operator.does("delete", "--now", removed)
        assert not site.requestor.exists(node_path(removed))
        assert operator.does("delete", deleted).rows[0]["State"] == "deleting"
        site.requestor.await_gone(node_path(deleted))
        assert site.requestor.node(held)["state"] == "hold"
        operator.does("delete", held)
        site.requestor.await_gone(node_path(held))

        debris = node_path("9999999999")  # what a listing leaves behind that looks at a node just being removed
        site.client.ensure_path(f"{debris}/lock")
        site.requestor.await_gone(debris)
    operator.sees("ready", count=2)
    await_servers(cloud, 2)  # what `delete --now` left there has been found and deleted too
    assert serve.stop() == 0
    assert serve.complaints == []


def test_node_in_use_can_not_be_deleted_by_hand(site: Site, operator: Operator) -> None:
    serve = site.serve(operator.config)
    request_id = site.requestor.submit("small")
    site.requestor.await_state(request_id, "fulfilled")
    with site.requestor.accepted(request_id) as (node,):
        refused = site.nodepool(operator.config, "delete", node["id"])
        assert "TimeoutException" in refused.err
        assert site.requestor.node(node["id"])["state"] == "in-use"
    site.requestor.await_gone(node_path(node["id"]))
    assert serve.stop() == 0
    assert serve.complaints == []


def test_erased_provider_starts_anew(site: Site, operator: Operator, cloud: FakeCloud) -> None:
    """Records vanish, with and without locks on them, under a pending request too; that one is served all the same."""
    serve = site.serve(operator.config, is_quick=True)
    before = set(operator.sees("ready", count=2))
    cloud.set("boot-time", 3600)
    request_id = site.requestor.submit("small", "big")
    await_servers(cloud, 4)
    cloud.set("boot-time", 0)  # for those that are launched from here on
    operator.does("erase", "--force", "cloud")
    assert before.isdisjoint(site.requestor.children("/nodepool/nodes"))
    assert site.requestor.await_state(request_id, "fulfilled", "failed")["state"] == "fulfilled"
    with site.requestor.accepted(request_id) as nodes:
        assert len(nodes) == 2
    operator.sees("ready", count=2)
    await_servers(cloud, 2)
    assert serve.stop() == 0
    assert serve.complaints == []


def test_every_state_of_ours_can_be_printed(site: Site, operator: Operator) -> None:
    """The command line raises on a state it does not know; nodelaunch may write any of its own."""
    full = {"provider": "cloud", "pool": "main", "type": ("small",), "external_id": "e", "username": "zuul"}
    for number, state in enumerate(NodeState):
        node = Node(id=NodeId(""), state=state, state_time=time.time(), **full if number % 2 else {"type": ("small",)})
        site.client.create(node_path(f"{number:010d}"), node.to_bytes(), makepath=True)
    for number, state in enumerate(RequestState):
        request_id = RequestId(f"200-{number:010d}")
        request = NodeRequest(id=request_id, state=state, node_types=("small",), requestor="me", state_time=time.time())
        site.client.create(f"/nodepool/requests/{request_id}", request.to_bytes(), makepath=True)
    listed = operator.does("list", "--detail").rows
    assert sorted(row["State"] for row in listed) == sorted(NodeState)
    requests = operator.does("request-list").rows
    assert sorted(row["State"] for row in requests) == sorted(RequestState)
