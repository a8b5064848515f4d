"""A ``nodelaunch serve`` is stopped between the check of its lock and its call's arrival at the cloud, and
continues when another has taken over the node: real processes on a real ZooKeeper.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodelaunch.drivers.fake.cloud import FakeCloud
from support import stopped
from support.peer import Requestor
from support.process import Serve
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper

DEADLINE_S = 60.0
SESSION_S = 4
CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}
zookeeper-timeout: {session_s}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    boot-time: 0.1
    cloud-file: {cloud_file}
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: 4
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""


@dataclass
class Site:
    """A configuration, the processes that run on it, and the cloud that they share."""

    config: Path
    cloud: FakeCloud
    requestor: Requestor
    servers: list[Serve] = field(default_factory=list)

    def serve(self, *python: str) -> Serve:
        self.servers.append(Serve(self.config, python=python or ("-m", "nodelaunch")))
        return self.servers[-1]

    def told(self, *events: str) -> list[str]:
        """The ids of those in the cloud's log."""
        return [entry["id"] for entry in self.cloud.log() if entry["what"] in events]


@pytest.fixture
def site(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> Iterator[Site]:
    config, cloud_file, where = tmp_path / "nodepool.yaml", tmp_path / "cloud.sqlite", zookeeper_server
    config.write_text(
        CONFIG.format(
            host=where.host, port=where.tls_port, chroot=zk_chroot, tls=where.certificates.client,
            session_s=SESSION_S, cloud_file=cloud_file,
        )
    )  # fmt: skip
    client = zookeeper_server.kazoo(zk_chroot)
    client.ensure_path("/")
    made = Site(config, FakeCloud(cloud_file, patience_s=10.0), Requestor(client, deadline_s=DEADLINE_S))
    yield made
    for server in made.servers:
        server.kill()
    made.cloud.close()
    client.stop()
    client.close()


def await_stop(server: Serve) -> None:
    """Wait until the process is stopped."""
    is_stopped = threading.Event()

    def wait() -> None:
        os.waitid(os.P_PID, server.process.pid, os.WSTOPPED | os.WNOWAIT)
        is_stopped.set()

    threading.Thread(target=wait, daemon=True).start()
    assert is_stopped.wait(DEADLINE_S), f"it goes on: {server.log[-20:]}"


@pytest.mark.parametrize("late", ["create", "delete"])
def test_call_of_a_stopped_launcher_that_was_overtaken_is_refused(site: Site, late: str) -> None:
    first = site.serve(stopped.__file__, late)
    first.await_log("pool_registered")
    request_id = site.requestor.submit("small")
    await_stop(first)
    second = site.serve()
    assert site.requestor.await_state(request_id, "fulfilled", "failed")["state"] == "fulfilled"
    (created,) = site.told("create")
    os.kill(first.process.pid, signal.SIGCONT)
    overtaken = first.await_log("launch_overtaken")
    assert "stale" in overtaken["detail"]
    assert site.told("create", "deleting") == [created]
    assert [server.id for server in site.cloud.servers()] == [created]
    with site.requestor.accepted(request_id) as (node,):
        assert (node["id"], node["external_id"]) == (overtaken["node_id"], created)
    site.requestor.await_gone(f"/nodepool/nodes/{node['id']}")
    assert site.told("create", "gone") == [created] * 2
    assert second.complaints == []
