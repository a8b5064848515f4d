"""Driver processes are killed at random moments under load; their launcher is killed; nothing is lost or left over."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.driverhost.process import plugin as plugins
from nodelaunch.driverhost.process.driver import ProcessDriver
from nodelaunch.driverhost.process.supervisor import Restarts
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.protocol.states import RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import LoopClock, Running, at_work, written
from support.process import Serve
from support.processes import children_of, example, running, why_not

KILLS = int(os.environ.get("NODELAUNCH_DRIVER_KILLS", "20"))
"""Number of kills of a driver; set it to 100 for a long run."""
DEADLINE_S = 120.0 + 4.0 * KILLS
GONE_WITHIN_S = 5.0
"""Time limit after a launcher's death until no driver process is left."""

CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}, {{name: calm}}]
providers:
  - name: cloud
    driver: fake
    isolation: process
    pass-environment: [PYTHONPATH]
    cloud-file: {home}/cloud.sqlite
    boot-time: 0.05
    delete-time: 0.02
    launch-retries: 2
    launch-timeout: 300
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 6, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
  - name: neighbour
    driver: fake
    boot-time: 0.05
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 6, labels: [{{name: calm, cloud-image: image, min-ram: 8192}}]}}]
"""


class Quick(DriverRegistry):
    """Drivers are started again at once, so that the test is not about waiting."""

    def open(self, config, context):  # type: ignore[no-untyped-def]
        plugin: DriverPlugin = self.get(config.driver)
        if config.isolation == "process":
            plugin = plugins.isolated(plugin, restarts=Restarts(first_s=0.05, last_s=0.2))
        return plugin.open(config, context)


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Running]:
    path = written(folder, CONFIG, home=folder)
    store = EmbeddedStore(None, clock=LoopClock().now)
    async with (
        at_work(path, store, drivers=Quick()) as launcher,
        store.connect() as session,
        NodeClient(session, clock=LoopClock()) as client,
    ):
        made = Running(launcher, client, store)
        await made.until(lambda: made.is_ready)
        yield made


def driver_of(made: Running) -> ProcessDriver:
    driver = made.launcher.providers["cloud"].driver
    assert isinstance(driver, ProcessDriver)
    return driver


def victims(made: Running) -> list[int]:
    """Return the processes of the supervisor and of the driver itself; none between two runs."""
    child = driver_of(made).supervisor.child
    return [child.pid, *children_of(child.pid)] if child is not None else []


async def kill_now_and_then(made: Running, rng: random.Random) -> int:
    """Kill one of them, *KILLS* times, each time at a random moment of its life; how often it was the driver's turn."""
    hits = 0
    while hits < KILLS:
        await asyncio.sleep(rng.uniform(0.0, 0.6))
        alive = victims(made)
        if alive:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(alive), signal.SIGKILL)
                hits += 1
    return hits


async def keep_asking(made: Running, label: str, finished: list[RequestState], stop: asyncio.Event) -> None:
    while not stop.is_set():
        request = await made.finished(label)
        finished.append(request.state)
        if request.state is RequestState.FULFILLED:
            async with made.client.hold(request):
                pass


async def test_killed_drivers_lose_nothing_and_disturb_nobody(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    stop = asyncio.Event()
    before = set(children_of(os.getpid()))
    served: list[RequestState] = []
    calm: list[RequestState] = []
    async with asyncio.timeout(DEADLINE_S), site(tmp_path) as made:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(keep_asking(made, "small", served, stop))
            group.create_task(keep_asking(made, "calm", calm, stop))
            await kill_now_and_then(made, rng)
            stop.set()
        await made.until(lambda: not made.view.nodes)
        cloud = FakeCloud(tmp_path / "cloud.sqlite", patience_s=10)
        try:
            left = cloud.servers()
        finally:
            cloud.close()
    assert left == [], f"seed {seed}: leaked"
    assert served, f"seed {seed}: nothing was served"
    assert set(served) <= {RequestState.FULFILLED, RequestState.FAILED}, f"seed {seed}"
    assert set(calm) == {RequestState.FULFILLED}, f"seed {seed}: the neighbour was disturbed"
    assert running(f"{tmp_path}/") == {}
    assert set(children_of(os.getpid())) <= before, f"seed {seed}: orphans"


SERVED = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
embedded-store: {{path: {home}/store.sqlite}}
labels: [{{name: small, min-ready: 1}}]
providers:
  - name: cloud
    driver: fake
    isolation: process
    pass-environment: [PYTHONPATH]
    cloud-file: {home}/cloud.sqlite
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 6, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""


SHELL = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
embedded-store: {{path: {home}/store.sqlite}}
labels: [{{name: small, min-ready: 1}}]
providers:
  - name: local
    driver: {driver}
    state-dir: {home}/n
    pools: [{{name: main, max-servers: 2, labels: [{{name: small}}]}}]
"""


def descendants(pid: int) -> list[int]:
    found = children_of(pid)
    return [*found, *(each for child in found for each in descendants(child))]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def await_gone(pids: list[int], within_s: float) -> list[int]:
    """Return the *pids* that still run, once none does or the time is up."""
    until = time.monotonic() + within_s
    while (left := [pid for pid in pids if is_there(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
def test_no_driver_outlives_its_launcher(tmp_path: Path, ends: signal.Signals) -> None:
    config = written(tmp_path, SERVED, home=tmp_path)
    serve = Serve(config)
    try:
        serve.await_log("node_ready")
        drivers = descendants(serve.process.pid)
        assert len(drivers) >= 2, "a keeper and a driver"
        serve.process.send_signal(ends)
        if ends is signal.SIGTERM:
            serve.process.wait(timeout=60)
        assert await_gone(drivers, GONE_WITHIN_S) == []
    finally:
        serve.kill()


@pytest.mark.skipif(why_not("sshd") is not None, reason=why_not("sshd") or "")
def test_shell_drivers_processes_go_with_the_launcher_and_its_nodes_stay(tmp_path: Path) -> None:
    """All processes of the driver end; its nodes are no part of it, and stay."""
    serve = Serve(written(tmp_path, SHELL, home=tmp_path, driver=example("sshd")))
    nodes = {}
    try:
        serve.await_log("node_ready")
        nodes = running(f"{tmp_path}/n/")
        drivers = [pid for pid in descendants(serve.process.pid) if pid not in nodes]
        assert len(drivers) >= 3, "a keeper, socat and the shell"
        serve.process.kill()
        assert await_gone(drivers, GONE_WITHIN_S) == []
        assert set(nodes) <= set(running(f"{tmp_path}/n/"))
    finally:
        serve.kill()
        for pid in nodes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
