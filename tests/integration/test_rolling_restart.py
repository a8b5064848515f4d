"""Three launchers with one configuration, restarted in turn while jobs come and go: no request fails, nothing is left.

`NODELAUNCH_ROUNDS` sets how often each of them is restarted. What the waits were is printed with ``-s``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from support.peer import Requestor
from support.process import Serve, run
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper

ROUNDS = int(os.environ.get("NODELAUNCH_ROUNDS", "1"))
LAUNCHERS, JOBS, QUIET_JOBS = 3, 8, 100
CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    cloud-file: {cloud}
    boot-time: 0.2
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: 20
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""


@pytest.fixture
def client(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> Iterator[KazooClient]:
    made = zookeeper_server.kazoo(zk_chroot)
    yield made
    made.stop()
    made.close()


@dataclass
class Load:
    """Jobs that come and go, each with one or two nodes, and what they saw."""

    requestor: Requestor
    states: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def keep_on(self, labels: tuple[str, ...]) -> None:
        while not self.is_over.is_set():
            began = time.monotonic()
            request_id = self.requestor.submit(*labels)
            state = self.requestor.await_state(request_id, "fulfilled", "failed")["state"]
            self.waits_s.append(time.monotonic() - began)
            self.states.append(state)
            if state == "fulfilled":
                with self.requestor.accepted(request_id):
                    pass
            else:
                self.requestor.delete_request(request_id)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(JOBS) as pool:
            jobs: list[Future[None]] = [
                pool.submit(self.keep_on, ("small",) * (1 + number % 2)) for number in range(JOBS)
            ]
            try:
                yield
            finally:
                self.is_over.set()
        for job in jobs:
            job.result()

    def p99_ms(self) -> float:
        return 1000 * sorted(self.waits_s)[int(0.99 * (len(self.waits_s) - 1))]


def test_restarts_in_turn_fail_no_request_and_leave_nothing(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, client: KazooClient, tmp_path: Path
) -> None:
    server, config, cloud = zookeeper_server, tmp_path / "nodepool.yaml", tmp_path / "cloud.sqlite"
    config.write_text(
        CONFIG.format(
            host=server.host, port=server.tls_port, chroot=zk_chroot, tls=server.certificates.client, cloud=cloud
        )
    )
    requestor = Requestor(client, deadline_s=60)
    serves = [Serve(config) for _ in range(LAUNCHERS)]
    ended: list[Serve] = []
    quiet, rolling = Load(requestor), Load(requestor)
    try:
        for serve in serves:
            serve.await_log("pool_registered")
        with quiet.running():
            while len(quiet.waits_s) < QUIET_JOBS and not quiet.is_over.is_set():
                requestor.client.sync("/")
        with rolling.running():
            for number in list(range(LAUNCHERS)) * ROUNDS:
                assert serves[number].stop() == 0
                ended.append(serves[number])
                serves[number] = Serve(config)
                serves[number].await_log("pool_registered")
        requestor.await_children("/nodepool/nodes", lambda names: not names)
        for serve in serves:
            assert serve.stop() == 0
        assert [each.complaints for each in [*ended, *serves]] == [[]] * len([*ended, *serves])
    finally:
        for serve in serves:
            serve.kill()
    assert set(quiet.states + rolling.states) == {"fulfilled"}
    assert requestor.children("/nodepool/requests") == []
    assert run("fake-cloud", str(cloud), "show", check=True).stdout.startswith("0 instances")
    p99 = f"p99 {quiet.p99_ms():.0f} ms before, {rolling.p99_ms():.0f} ms meanwhile"
    print(f"\n{len(ended)} restarts, {len(rolling.states)} requests; {p99}")  # noqa: T201  for whoever asks with -s
