"""Three launchers with one configuration, restarted in turn while jobs come and go: no request fails, nothing is left.

`NODELAUNCH_ROUNDS` sets how often each of them is restarted. `NODELAUNCH_OTHER` names the ``nodelaunch`` command of
another version, which is then upgraded to this one and downgraded again. What the waits were is printed with ``-s``.
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

OTHER = os.environ.get("NODELAUNCH_OTHER")
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


@dataclass
class Fleet:
    """Launchers with one configuration, and the jobs that they serve."""

    config: Path
    cloud: Path
    requestor: Requestor
    serves: list[Serve] = field(default_factory=list)
    ended: list[Serve] = field(default_factory=list)

    def start(self, *programs: str | None) -> None:
        """Start a launcher for each of *programs*; None: of this version."""
        self.serves = [Serve(self.config, program=program) for program in programs]
        for serve in self.serves:
            serve.await_log("pool_registered")

    def restart(self, number: int, program: str | None = None) -> None:
        assert self.serves[number].stop() == 0
        self.ended.append(self.serves[number])
        self.serves[number] = Serve(self.config, program=program)
        self.serves[number].await_log("pool_registered")

    def warm_up(self) -> Load:
        """Run jobs without faults."""
        quiet = Load(self.requestor)
        with quiet.running():
            while len(quiet.waits_s) < QUIET_JOBS and not quiet.is_over.is_set():
                self.requestor.client.sync("/")
        return quiet

    def finish(self) -> None:
        """All is well: every launcher ends, none complained, nothing is left."""
        self.requestor.await_children("/nodepool/nodes", lambda names: not names)
        for serve in self.serves:
            assert serve.stop() == 0
        assert [each.complaints for each in [*self.ended, *self.serves]] == [[]] * len([*self.ended, *self.serves])
        assert self.requestor.children("/nodepool/requests") == []
        assert run("fake-cloud", str(self.cloud), "show", check=True).stdout.startswith("0 instances")


@pytest.fixture
def fleet(zookeeper_server: ZooKeeperServer, zk_chroot: str, client: KazooClient, tmp_path: Path) -> Iterator[Fleet]:
    server, config, cloud = zookeeper_server, tmp_path / "nodepool.yaml", tmp_path / "cloud.sqlite"
    config.write_text(
        CONFIG.format(
            host=server.host, port=server.tls_port, chroot=zk_chroot, tls=server.certificates.client, cloud=cloud
        )
    )
    made = Fleet(config, cloud, Requestor(client, deadline_s=60))
    yield made
    for serve in made.serves:
        serve.kill()


def test_restarts_in_turn_fail_no_request_and_leave_nothing(fleet: Fleet) -> None:
    fleet.start(*[None] * LAUNCHERS)
    quiet, rolling = fleet.warm_up(), Load(fleet.requestor)
    with rolling.running():
        for number in list(range(LAUNCHERS)) * ROUNDS:
            fleet.restart(number)
    fleet.finish()
    assert set(quiet.states + rolling.states) == {"fulfilled"}
    report(fleet, quiet, rolling)


@pytest.mark.skipif(not OTHER, reason="NODELAUNCH_OTHER does not name the nodelaunch command of another version")
def test_upgrade_and_downgrade_in_turn_fail_no_request_and_leave_nothing(fleet: Fleet) -> None:
    """The upgrade goes from the other version to this one and back; in between both serve."""
    fleet.start(*[OTHER] * LAUNCHERS)
    quiet, rolling = fleet.warm_up(), Load(fleet.requestor)
    with rolling.running():
        for program in [None, OTHER] * ROUNDS:
            for number in range(LAUNCHERS):
                fleet.restart(number, program)
    fleet.finish()
    assert set(quiet.states + rolling.states) == {"fulfilled"}
    report(fleet, quiet, rolling)


def report(fleet: Fleet, quiet: Load, rolling: Load) -> None:
    """Print the numbers, which ``-s`` shows."""
    p99 = f"p99 {quiet.p99_ms():.0f} ms before, {rolling.p99_ms():.0f} ms meanwhile"
    print(f"\n{len(fleet.ended)} restarts, {len(rolling.states)} requests; {p99}")  # noqa: T201
