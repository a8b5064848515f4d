"""Records by foreign clients in a real ZooKeeper: a launcher still serves other requests, and leaves foreign records
alone.

tests/property/test_hostile_records.py tries faulty single records; here are sizes, numbers, a real server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError

from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.protocol import paths
from support import txnlog
from support.peer import Requestor
from support.process import Serve
from support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.long, pytest.mark.timeout(1200)]

CONFIG = """
zookeeper-servers: [{{host: {server.host}, port: {server.port}, chroot: {chroot}}}]
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    cloud-file: {cloud}
    boot-time: 0.1
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 20, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""
WORKERS, JOBS_AFTERWARDS = 3, 5
PATIENCE_S = 300.0
MANY = 2000
LARGEST = 1_048_000
"""Bytes of a znode, nearly: the rest of jute.maxbuffer is for its path and the request around it."""
WELL_FORMED = {
    "state": "requested", "state_time": 1.0, "node_types": ["small"], "requestor": "somebody", "declined_by": [],
    "nodes": [], "relative_priority": 0, "provider": "cloud", "pool": "main", "type": ["small"], "allocated_to": None,
    "id": "somebody", "providers": ["cloud"], "knows": [], "kind": "pool", "supported_labels": ["small"], "labels": [],
    "launcher": "somebody", "resources": {"instances": 1}, "priority": 100, "request": "200-0000000001",
}  # fmt: skip
"""The fields that the launcher reads in any of its records."""
ODD = [None, True, -1, 10**30, 1e308, "", "x" * 30_000, "\ud800", [], [[]], {}, {"a": []}]
BODIES = [
    b"", b"{", b"null", b"[]", b'"', b"1e999", b"\xff\xfe{", b"\0" * 1000, "{}".encode("utf-16"), b"\xef\xbb\xbf{}",
    b"[" * 100_000, b'{"a":' * 50_000, b'{"state":"' + b"x" * (LARGEST - 20) + b'"}', b"x" * LARGEST,
    *(json.dumps({**WELL_FORMED, field: value}).encode() for field in ("state", "id", "knows") for value in ODD),
    *(json.dumps(dict.fromkeys(WELL_FORMED, value)).encode() for value in ODD),
]  # fmt: skip
NAMES = [
    "200-0000000007", "200-9999999999", "200--000000001", "-", "...", " ", "0", "9999999999", "99999999999999999999",
    "0000000007", "-000000001", "0__lock__0000000001", "lock", "é漢", "%2e%2e", "a" * 300, "x\\y", "'\"$(id)`;",
]  # fmt: skip
DIRECTORIES = [
    paths.REQUESTS, paths.NODES, paths.REQUEST_LOCKS, paths.POOLS, paths.LAUNCHERS, paths.BUILDERS, paths.IMAGES,
    paths.PRESENCES, paths.KNOWN_POOLS, paths.QUESTIONS, paths.INVENTORIES, paths.METASTATIC, paths.ROOT,
    paths.OWN_ROOT,
]  # fmt: skip
THEIR_REQUEST, THEIR_NODE = f"{paths.REQUESTS}/300-0000000001", f"{paths.NODES}/7000000001"


def strange() -> Iterator[tuple[str, bytes]]:
    """Every name in every directory, with every body somewhere."""
    bodies = [*BODIES, *BODIES]
    for directory in DIRECTORIES:
        for name in NAMES:
            body = bodies.pop() if bodies else b"{"
            yield f"{directory}/{name}", body
            yield f"{directory}/{name}/deeper", b"["
            yield f"{directory}/{name}/deeper/lock", b"{}"


def many() -> Iterator[tuple[str, bytes]]:
    """Yield thousands of children, in directories that all clients read and in locks; and foreign nodes in every
    state.
    """
    elsewhere = {**WELL_FORMED, "provider": "elsewhere", "external_id": "theirs", "launcher": "theirs"}
    states = ("init", "building", "ready", "in-use", "used", "hold", "testing", "deleting", "failed", "aborted")
    yield THEIR_REQUEST, b"{"
    yield THEIR_NODE, json.dumps({**elsewhere, "state": "used"}).encode()
    for number in range(MANY):
        yield f"{paths.REQUESTS}/400-{number:010d}", b"{"
        yield f"{paths.NODES}/{8000000000 + number}", json.dumps({**elsewhere, "state": states[number % 10]}).encode()
        yield f"{paths.NODES}/{9000000000 + number}", b"{"
        yield f"{paths.REQUEST_LOCKS}/300-0000000001/0__lock__{number:010d}", b""
        yield f"{THEIR_NODE}/lock/0__lock__{number:010d}", b""
        yield f"{paths.PRESENCES}/{'long' * 60}{number}", b"{"
        yield f"{paths.QUESTIONS}/many/{number:010d}", b"{"


class Site:
    def __init__(self, server: ZooKeeperServer, chroot: str, folder: Path) -> None:
        self.config, self.cloud_file = folder / "nodepool.yaml", folder / "cloud.sqlite"
        self.client: KazooClient = server.kazoo(chroot, timeout=60.0)
        self.requestor = Requestor(self.client, deadline_s=PATIENCE_S)
        self.launchers: list[Serve] = []
        self.config.write_text(CONFIG.format(server=server, chroot=chroot, cloud=self.cloud_file))

    def serve(self) -> Serve:
        """Another launcher, once it serves."""
        launcher = Serve(self.config)
        self.launchers.append(launcher)
        launcher.patience_s = PATIENCE_S
        launcher.await_log("pool_registered")
        return launcher

    def write(self, hostile: Sequence[tuple[str, bytes]]) -> None:
        begun = [self.client.create_async(path, data, makepath=True) for path, data in hostile]
        for each in begun:
            with suppress(NodeExistsError):  # a launcher was faster
                each.get(timeout=120)

    def work(self, is_over: threading.Event) -> int:
        done = 0
        while not is_over.is_set():
            self.requestor.run_job("small")
            done += 1
        return done

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Well-behaved requestors, each of which is served all the time."""
        is_over = threading.Event()
        with ThreadPoolExecutor(WORKERS) as pool:
            working = [pool.submit(self.work, is_over) for _ in range(WORKERS)]
            try:
                yield
            finally:
                is_over.set()
        assert all(each.result() for each in working)


@pytest.fixture
def site(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(zookeeper_server, zk_chroot, tmp_path)
    yield made
    made.client.stop()
    made.client.close()


def test_launcher_serves_others_and_deletes_nothing_of_theirs(
    site: Site, zookeeper_server: ZooKeeperServer, zk_chroot: str
) -> None:
    hostile = [*strange(), *many()]
    with closing(FakeCloud(site.cloud_file)) as cloud:
        theirs = cloud.add()
    try:
        first = site.serve()
        with site.at_work():
            site.write(hostile)
            for _ in range(JOBS_AFTERWARDS):
                site.requestor.run_job("small")
        second = site.serve()  # which finds all of it when it starts
        assert first.stop() == 0
        for _ in range(JOBS_AFTERWARDS):
            site.requestor.run_job("small")
        assert second.stop() == 0
    finally:
        for launcher in site.launchers:
            launcher.kill()
    assert [entry for launcher in site.launchers for entry in launcher.complaints] == []
    with closing(FakeCloud(site.cloud_file)) as cloud:
        assert [server.id for server in cloud.servers()] == [theirs]
    written = {path for path, _ in hostile}
    history = txnlog.history(zookeeper_server.data_folder, zk_chroot)
    assert written <= {write.path for write in history}
    own = site.client.client_id[0]
    touched = [write for write in history if write.session != own and write.path in written]
    assert [f"{write.kind} {write.path}" for write in touched] == []
