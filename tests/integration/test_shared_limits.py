"""Several launchers on a real ZooKeeper: what a provider, or a tenant, may have, it has once.

`NODELAUNCH_BURSTS` sets how many bursts each number of launchers is put under.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from support.peer import Requestor
from support.process import Serve
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper

BURSTS = int(os.environ.get("NODELAUNCH_BURSTS", "2"))
BURST, SERVERS = 40, 10
TENANT = "acme"
CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small, min-ready: {min_ready}}}]
tenant-resource-limits: [{{tenant-name: acme, max-servers: {servers}}}]
providers:
"""
PROVIDER = """
  - name: {name}
    driver: fake
    cloud-file: {folder}/{name}.sqlite
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


class Site:
    """Launchers to be started on one ZooKeeper."""

    def __init__(self, server: ZooKeeperServer, chroot: str, requestor: Requestor, folder: Path) -> None:
        self.requestor = requestor
        self._server = server
        self._chroot = chroot
        self._folder = folder

    def written(self, name: str, providers: dict[str, int], min_ready: int = 0) -> Path:
        """The configuration of a launcher with these providers, and what each may have."""
        path = self._folder / f"{name}.yaml"
        head = CONFIG.format(
            host=self._server.host, port=self._server.tls_port, chroot=self._chroot, servers=SERVERS,
            tls=self._server.certificates.client, min_ready=min_ready,
        )  # fmt: skip
        bodies = [PROVIDER.format(name=name, folder=self._folder, servers=most) for name, most in providers.items()]
        path.write_text(head + "".join(bodies))
        return path

    @contextmanager
    def running(self, *configs: Path) -> Iterator[None]:
        """A launcher with each configuration, all registered; they end in order."""
        serves = [Serve(config) for config in configs]
        try:
            for serve in serves:
                serve.await_log("pool_registered")
            self.requestor.await_children("/nodelaunch/launchers", lambda names: len(names) == len(configs))
            yield
            for serve in serves:
                assert serve.stop() == 0
                assert serve.complaints == []
        finally:
            for serve in serves:
                serve.kill()


@pytest.fixture
def site(zookeeper_server: ZooKeeperServer, zk_chroot: str, client: KazooClient, tmp_path: Path) -> Site:
    return Site(zookeeper_server, zk_chroot, Requestor(client, deadline_s=120), tmp_path)


@pytest.mark.parametrize("launchers", [2, 3])
def test_bursts_never_take_more_than_the_provider_has(site: Site, launchers: int) -> None:
    with site.running(*[site.written("all", {"cloud": SERVERS})] * launchers):
        for _ in range(BURSTS):
            assert max(burst(site.requestor)) == SERVERS


@pytest.mark.parametrize("launchers", [2, 3])
def test_bursts_never_take_more_than_the_tenant_may_have(site: Site, launchers: int) -> None:
    """Two launchers have one provider each, a third has both: the tenant's limit spans them."""
    clouds = {"one": BURST, "two": BURST}
    configs = [site.written("first", {"one": BURST}), site.written("second", {"two": BURST})]
    with site.running(*configs, *[site.written("both", clouds)] * (launchers - 2)):
        for _ in range(BURSTS):
            assert max(burst(site.requestor, TENANT)) == SERVERS


def test_ready_nodes_are_given_out_to_a_tenant_up_to_its_limit(site: Site) -> None:
    """They count for no tenant until then; each launcher hands out its own, and those of the other."""
    config = site.written("both", {"one": BURST, "two": BURST}, min_ready=2 * SERVERS)
    with site.running(config, config):
        for _ in range(BURSTS):
            site.requestor.await_children("/nodepool/nodes", lambda names: len(names) >= 2 * SERVERS)
            assert max(held_at_once(site.requestor)) <= SERVERS


def burst(requestor: Requestor, tenant: str | None = None) -> list[int]:
    """Ask for many nodes at once, use each and give it back; how many nodes there were, at every step."""

    def use(request_id: str) -> list[int]:
        request = requestor.await_state(request_id, "fulfilled", "failed")
        assert request["state"] == "fulfilled"
        before = len(requestor.children("/nodepool/nodes"))
        with requestor.accepted(request_id):
            return [before, len(requestor.children("/nodepool/nodes"))]

    requests = [requestor.submit("small", tenant_name=tenant) for _ in range(BURST)]
    with ThreadPoolExecutor(BURST) as pool:
        peaks = [peak for each in pool.map(use, requests) for peak in each]
    requestor.await_children("/nodepool/nodes", lambda names: not names)
    return peaks


def held_at_once(requestor: Requestor) -> list[int]:
    """The same for the tenant, where other nodes are there too: how many nodes were its own at every step, at least."""
    held, counting = 0, threading.Lock()

    def count(by: int) -> int:
        nonlocal held
        with counting:
            held += by
            return held

    def use(request_id: str) -> int:
        request = requestor.await_state(request_id, "fulfilled", "failed")
        assert request["state"] == "fulfilled"
        peak = count(1)
        with requestor.accepted(request_id):
            count(-1)
        return peak

    requests = [requestor.submit("small", tenant_name=TENANT) for _ in range(BURST)]
    with ThreadPoolExecutor(BURST) as pool:
        return list(pool.map(use, requests))
