"""Several launchers with one configuration on a real ZooKeeper: what a provider may have, it has once.

`NODELAUNCH_BURSTS` sets how many bursts each number of launchers is put under.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from support.peer import Requestor
from support.process import Serve
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper

BURSTS = int(os.environ.get("NODELAUNCH_BURSTS", "2"))
BURST, SERVERS = 40, 10
CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    cloud-file: {cloud}
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: {servers}
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""


@pytest.fixture
def client(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> Iterator[KazooClient]:
    made = zookeeper_server.kazoo(zk_chroot)
    yield made
    made.stop()
    made.close()


@pytest.mark.parametrize("launchers", [2, 3])
def test_bursts_never_take_more_than_the_provider_has(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, client: KazooClient, tmp_path: Path, launchers: int
) -> None:
    server, config = zookeeper_server, tmp_path / "nodepool.yaml"
    config.write_text(
        CONFIG.format(
            host=server.host, port=server.tls_port, chroot=zk_chroot, tls=server.certificates.client,
            cloud=tmp_path / "cloud.sqlite", servers=SERVERS,
        )
    )  # fmt: skip
    requestor = Requestor(client, deadline_s=60)
    serves = [Serve(config) for _ in range(launchers)]
    try:
        for serve in serves:
            serve.await_log("pool_registered")
        requestor.await_children("/nodelaunch/launchers", lambda names: len(names) == launchers)
        for _ in range(BURSTS):
            peaks = burst(requestor)
            assert max(peaks) == SERVERS
        for serve in serves:
            assert serve.stop() == 0
            assert serve.complaints == []
    finally:
        for serve in serves:
            serve.kill()


def burst(requestor: Requestor) -> list[int]:
    """Ask for many nodes at once, use each and give it back; how many nodes there were, at every step."""

    def use(request_id: str) -> list[int]:
        request = requestor.await_state(request_id, "fulfilled", "failed")
        assert request["state"] == "fulfilled"
        before = len(requestor.children("/nodepool/nodes"))
        with requestor.accepted(request_id):
            return [before, len(requestor.children("/nodepool/nodes"))]

    requests = [requestor.submit("small") for _ in range(BURST)]
    with ThreadPoolExecutor(BURST) as pool:
        peaks = [peak for each in pool.map(use, requests) for peak in each]
    requestor.await_children("/nodepool/nodes", lambda names: not names)
    return peaks
