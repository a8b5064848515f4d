"""Metastatic nodes with launchers as processes on a real ZooKeeper, seen by a client that only knows Nodepool's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from support.peer import Requestor
from support.process import Serve
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper

CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}
zookeeper-timeout: 4
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: backing}}, {{name: slot}}]
providers:
  - name: cloud
    driver: fake
    cloud-file: {cloud_file}
    cloud-images: [{{name: image, username: zuul}}]
    pools: [{{name: main, max-servers: 20, labels: [{{name: backing, cloud-image: image, min-ram: 8192}}]}}]
  - name: meta
    driver: metastatic
    max-concurrency: {max_concurrency}
    pools:
      - name: main
        labels: [{{name: slot, backing-label: backing, max-parallel-jobs: 2, grace-time: {grace_time}}}]
"""
OWNER = b"NodePool:metastatic:meta"
NODE_KEYS = 37


class Site:
    """A configuration on the shared ZooKeeper, and a requestor."""

    def __init__(self, server: ZooKeeperServer, chroot: str, folder: Path) -> None:
        self.client: KazooClient = server.kazoo(chroot)
        self.client.ensure_path("/")
        self.requestor = Requestor(self.client)
        self.servers: list[Serve] = []
        self._config = folder / "nodepool.yaml"
        self._values = {"host": server.host, "port": server.tls_port, "tls": server.certificates.client}
        self._values |= {"chroot": chroot, "cloud_file": folder / "cloud.sqlite"}

    def serve(self, *, grace_time: float = 3600, max_concurrency: int = -1) -> Serve:
        text = CONFIG.format(**self._values, grace_time=grace_time, max_concurrency=max_concurrency)
        self._config.write_text(text)
        self.servers.append(Serve(self._config))
        self.servers[-1].await_log("pool_registered", count=2)
        return self.servers[-1]

    def given(self, *labels: str) -> tuple[str, list[dict[str, Any]]]:
        """A fulfilled request, and its nodes."""
        request_id = self.requestor.submit(*labels)
        request = self.requestor.await_state(request_id, "fulfilled", "failed")
        assert request["state"] == "fulfilled"
        return request_id, [self.requestor.node(node_id) for node_id in request["nodes"]]

    def contenders(self, node_id: str) -> list[tuple[str, bytes, int]]:
        """Name, data and owning session (0: none) of each."""
        path = f"/nodepool/nodes/{node_id}/lock"
        found = [(name, *self.client.get(f"{path}/{name}")) for name in self.requestor.children(path)]
        return [(name, data, stat.ephemeralOwner) for name, data, stat in found]


@pytest.fixture
def site(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(zookeeper_server, zk_chroot, tmp_path)
    yield made
    for server in made.servers:
        server.kill()
    made.client.stop()
    made.client.close()


def test_peer_sees_what_nodepool_would_write(site: Site) -> None:
    serve = site.serve()
    _, (node,) = site.given("slot")
    backing_id = node["driver_data"]["backing_node"]
    backing = site.requestor.node(backing_id)

    ((name, data, owner),) = site.contenders(backing_id)
    assert name[32:].startswith("__lock__")
    assert len(name) == 32 + len("__lock__") + 10
    assert (data, owner) == (OWNER, 0)
    assert backing["state"] == "in-use"
    assert backing["allocated_to"].startswith("100-")
    assert (backing["requestor"], backing["tenant_name"]) == (OWNER.decode(), None)
    user_data = json.loads(backing["user_data"])
    assert list(user_data) == ["owner", "label", "slots", "failed", "launched"]
    assert (user_data["owner"], user_data["label"], user_data["slots"]) == (OWNER.decode(), "slot", 2)
    assert site.requestor.children("/nodepool/requests") == [node["allocated_to"]]

    node_id = node["external_id"]
    assert site.requestor.request(node["allocated_to"])["nodes"] == [node_id]
    assert len(node) == len(backing) == NODE_KEYS
    assert (node["image_id"], node["slot"], node["username"]) == ("unused", 0, "zuul")
    assert node["driver_data"] == {
        "metadata": {
            "nodepool_node_id": node_id, "nodepool_pool_name": "main", "nodepool_provider_name": "meta",
        },
        "backing_node": backing_id, "slot": 0, "node": node_id,
    }  # fmt: skip
    for key in ("interface_ip", "public_ipv4", "host_keys", "python_path", "connection_port", "az", "region", "cloud"):
        assert node[key] == backing[key], key
    assert serve.complaints == []


def test_backing_node_survives_every_launcher(site: Site) -> None:
    """C18: launchers are killed, restarted, ended in order; nodes on the backing node continue, and the next
    launcher knows its slots.
    """
    first = site.serve()
    request_id, (node,) = site.given("slot")
    backing_id = node["driver_data"]["backing_node"]
    with site.requestor.accepted(request_id):
        first.kill()
        site.requestor.await_children("/nodepool/components/pool", lambda names: not names)
        assert site.requestor.node(backing_id)["state"] == "in-use"
        second = site.serve()
        next_request_id, (neighbour,) = site.given("slot")
        assert (neighbour["driver_data"]["backing_node"], neighbour["slot"]) == (backing_id, 1)
        assert second.stop() == 0
        assert second.complaints == []
    ((_, data, owner),) = site.contenders(backing_id)
    assert (data, owner) == (OWNER, 0)
    third = site.serve(grace_time=0)
    site.requestor.await_gone(f"/nodepool/nodes/{node['external_id']}")
    assert site.requestor.node(backing_id)["state"] == "in-use"
    with site.requestor.accepted(next_request_id):
        pass
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    site.requestor.await_children("/nodelaunch/metastatic/meta/backing", lambda names: not names)
    assert site.requestor.children("/nodelaunch/metastatic/meta/nodes") == []
    assert third.stop() == 0
    assert third.complaints == []


def test_two_launchers_never_give_a_slot_twice(site: Site) -> None:
    """Many requests at once, both launchers at work on them: no two nodes have one slot, and all is given back."""
    servers = [site.serve(grace_time=1, max_concurrency=4) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            given = list(pool.map(lambda _number: site.given("slot", "slot"), range(8)))
            nodes = [node for _, nodes in given for node in nodes]
            slots = Counter((node["driver_data"]["backing_node"], node["slot"]) for node in nodes)
            assert set(slots.values()) == {1}
            assert len({node["launcher"] for node in nodes}) == 2

            def use(request_id: str) -> None:
                with site.requestor.accepted(request_id):
                    pass

            list(pool.map(use, [request_id for request_id, _ in given]))
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    site.requestor.await_children("/nodelaunch/metastatic/meta/backing", lambda names: not names)
    assert site.requestor.children("/nodelaunch/metastatic/meta/nodes") == []
    for server in servers:
        assert server.stop() == 0
        assert server.complaints == []
