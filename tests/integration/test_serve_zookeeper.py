"""The main job on a real ZooKeeper over mutual TLS, with a client that only knows Nodepool's protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from support.peer import Requestor
from support.process import Serve, run
from support.sshd import SshdFactory, sshd_factory  # noqa: F401  the fixture behind `sshd`
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper

CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}
zookeeper-timeout: 4
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}, {{name: big}}, {{name: bare}}]
providers:
  - name: cloud
    driver: fake
    boot-time: {boot_time}
    cloud-file: {cloud_file}
    cloud-images: [{{name: image, username: zuul}}]
    pools:
      - name: main
        max-servers: 8
        labels:
          - {{name: small, cloud-image: image, min-ram: 8192}}
          - {{name: big, cloud-image: image, flavor-name: Fake Flavor}}
"""
STATIC = """
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes: [{{name: 127.0.0.1, connection-port: {port}, labels: [bare], host-key: ['{key}']}}]
"""


class Site:
    """A configuration on the shared ZooKeeper, and a requestor."""

    def __init__(self, server: ZooKeeperServer, chroot: str, folder: Path) -> None:
        self.config = folder / "nodepool.yaml"
        self.cloud_file = folder / "cloud.sqlite"
        self.client: KazooClient = server.kazoo(chroot)
        self.client.ensure_path("/")
        self.requestor = Requestor(self.client)
        self._values = {"host": server.host, "port": server.tls_port, "tls": server.certificates.client}
        self._values |= {"chroot": chroot, "cloud_file": self.cloud_file}
        self.servers: list[Serve] = []

    def serve(self, *, boot_time: float = 0.0, more: str = "") -> Serve:
        self.config.write_text(CONFIG.format(**self._values, boot_time=boot_time) + more)
        self.servers.append(Serve(self.config))
        return self.servers[-1]


@pytest.fixture
def site(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(zookeeper_server, zk_chroot, tmp_path)
    yield made
    for server in made.servers:
        server.kill()
    made.client.stop()
    made.client.close()


def test_one_and_five_nodes_are_launched_used_and_deleted(site: Site) -> None:
    serve = site.serve()
    for labels in (("small",), ("small", "big", "small", "small", "big")):
        nodes = site.requestor.run_job(*labels)
        assert [node["type"] for node in nodes] == [[label] for label in labels]
        assert all(node["host_keys"] == ["ssh-rsa FAKEKEY"] for node in nodes)
    assert site.requestor.children("/nodepool/nodes") == []
    site.requestor.await_children("/nodepool/requests-lock", lambda names: not names)
    assert serve.get("/health/live")[0] == 200
    assert serve.get("/health/ready") == (200, "OK\n")
    assert serve.stop() == 0
    assert serve.complaints == []
    assert site.requestor.children("/nodepool/components/pool") == []


@pytest.mark.sshd
async def test_static_host_is_handed_out_and_registered_again(site: Site, sshd: SshdFactory) -> None:
    host = sshd(("ssh-ed25519",))
    await host.start()
    (key,) = host.host_keys
    serve = site.serve(more=STATIC.format(port=host.port, key=key))
    (first,) = await asyncio.to_thread(site.requestor.run_job, "bare")
    (second,) = await asyncio.to_thread(site.requestor.run_job, "bare")
    assert first["host_keys"] == [key]
    assert (first["hostname"], first["launcher"]) == ("127.0.0.1", "static driver")
    assert first["id"] != second["id"]
    children = site.requestor.await_children
    (left,) = await asyncio.to_thread(children, "/nodepool/nodes", lambda names: len(names) == 1)
    assert site.requestor.node(left)["state"] == "ready"
    assert await asyncio.to_thread(serve.stop) == 0
    assert serve.complaints == []


def test_launchers_are_asked_through_zookeeper_why_a_request_waits(site: Site) -> None:
    """Two of them; nothing but the store is between them and who asks."""
    first = site.serve()
    first.await_log("pool_registered")
    site.serve().await_log("pool_registered")
    site.requestor.await_children("/nodelaunch/launchers", lambda names: len(names) == 2)
    request_id = site.requestor.submit(*["small"] * 9)
    site.requestor.await_state(request_id, "failed")
    done = run("explain", request_id, "--json", "-c", str(site.config))
    assert done.returncode == 0, done.stderr
    pools = json.loads(done.stdout)["pools"]
    reasons = [event["reasons"] for pool in pools for event in pool["history"] if event["what"] == "declined"]
    assert [(r["kind"], r["facts"]) for (r,) in reasons] == [
        ("NeverFits", {"resource": "instances", "wanted": 9, "limit": 8})
    ] * len(reasons)
    assert len(pools) == 2
    assert len(reasons) >= 2
    assert site.requestor.children("/nodelaunch/questions") == []


def test_unknown_label_fails_with_every_pool_in_declined_by(site: Site) -> None:
    serve = site.serve()
    request_id = site.requestor.submit("no-such-label")
    request = site.requestor.await_state(request_id, "failed")
    pools = [
        site.client.get(f"/nodepool/components/pool/{n}")[0]
        for n in site.requestor.children("/nodepool/components/pool")
    ]
    assert len(pools) == 1
    assert len(request["declined_by"]) == 1
    assert request["declined_by"][0].encode() in pools[0]
    assert request["nodes"] == []
    assert request["requestor_data"]["span_info"]["trace_id"] == 206015695541625575178169608723763992776
    assert serve.complaints == []


def test_request_deleted_while_pending_leaves_nothing_behind(site: Site) -> None:
    serve = site.serve(boot_time=3600)
    request_id = site.requestor.submit("small", "small")
    site.requestor.await_state(request_id, "pending")
    site.requestor.await_children("/nodepool/nodes", lambda names: len(names) == 2)
    site.requestor.delete_request(request_id)
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    site.requestor.await_children("/nodepool/requests-lock", lambda names: not names)
    assert serve.stop() == 0
    assert serve.complaints == []


def test_killed_launcher_is_made_up_for_by_the_next(site: Site) -> None:
    """The next launcher resumes its launches, or starts them again where they had not come that far."""
    from nodelaunch.drivers.fake.cloud import FakeCloud

    first = site.serve(boot_time=3)
    requests = [site.requestor.submit("small"), site.requestor.submit("big", "small")]
    for request_id in requests:
        site.requestor.await_state(request_id, "pending")
    first.await_log("request_accepted", count=2)
    cloud = FakeCloud(site.cloud_file)
    first.kill()
    site.serve(boot_time=0)
    nodes = []
    for request_id in requests:
        assert site.requestor.await_state(request_id, "fulfilled", "failed")["state"] == "fulfilled"
        with site.requestor.accepted(request_id) as given:
            nodes += given
    assert len({node["id"] for node in nodes}) == 3
    assert len({node["external_id"] for node in nodes}) == 3
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    assert cloud.servers() == []
    cloud.close()


def test_corrupt_records_are_left_alone_and_stop_nothing(site: Site) -> None:
    bad = {
        "/nodepool/requests/200-9999999990": b"",
        "/nodepool/requests/200-9999999991": b"{",
        "/nodepool/requests/200-9999999992": b'{"state": "no-such-state", "node_types": ["small"]}',
        "/nodepool/requests/200-9999999993": b'{"state": "requested", "node_types": 5}',
        "/nodepool/nodes/9999999990": b"\xff\xfe",
        "/nodepool/nodes/9999999991": b'{"state": "ready", "type"',
        "/nodepool/nodes/9999999992": b"[]",
    }
    for path, data in bad.items():
        site.client.create(path, data, makepath=True)
    serve = site.serve()
    site.requestor.run_job("small")
    assert {entry["path"] for entry in serve.log if entry["event"] == "record_unreadable"} >= bad.keys()
    assert all(site.client.get(path)[0] == data for path, data in bad.items())
    assert serve.stop() == 0
    assert serve.complaints == []
