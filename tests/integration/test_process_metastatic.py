"""The metastatic driver in a process of its own, on a real store; killed, nothing is given twice or lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from nodelaunch.client.nodes import NodeClient
from nodelaunch.driverhost.process.driver import ProcessDriver
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import LoopClock, Running, at_work, written
from support.processes import children_of

KILLS = 5
DEADLINE_S = 240.0
CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: backing}}, {{name: slot}}]
providers:
  - {{name: cloud, driver: test, pools: [{{name: main, max-servers: 8, labels: [backing]}}]}}
  - name: meta
    driver: metastatic
    isolation: process
    pass-environment: [PYTHONPATH]
    launch-retries: 5
    pools:
      - name: main
        labels: [{{name: slot, backing-label: backing, max-parallel-jobs: 2, grace-time: 0}}]
"""


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Running]:
    store = EmbeddedStore(folder / "store.sqlite")
    async with (
        at_work(written(folder, CONFIG), store) as launcher,
        store.connect() as session,
        NodeClient(session, clock=LoopClock()) as client,
    ):
        yield Running(launcher, client, store)


def driver_of(made: Running) -> ProcessDriver:
    driver = made.launcher.providers["meta"].driver
    assert isinstance(driver, ProcessDriver)
    return driver


async def kill_now_and_then(made: Running, rng: random.Random) -> None:
    """Kill the driver, or its supervisor, at random moments of its life."""
    kills = 0
    while kills < KILLS:
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        child = driver_of(made).supervisor.child
        if child is not None:
            with suppress(ProcessLookupError):
                os.kill(rng.choice([child.pid, *children_of(child.pid)]), signal.SIGKILL)
                kills += 1


async def keep_asking(made: Running, stop: asyncio.Event, served: list[RequestState]) -> None:
    while not stop.is_set():
        request = await made.finished("slot", "slot")
        served.append(request.state)
        if request.state is RequestState.FULFILLED:
            async with made.client.hold(request):
                taken = Counter(
                    (node.driver_data["backing_node"], node.driver_data["slot"])  # type: ignore[index]
                    for node in made.nodes(NodeState.IN_USE)
                    if node.provider == "meta"
                )
                assert not taken or max(taken.values()) == 1, taken


async def left(made: Running) -> list[str]:
    """Return the store's remaining claims and leases."""
    return [*await made.store.children(paths.claims("meta")), *await made.store.children(paths.leases("meta"))]


def is_idle_backing(node: Node) -> bool:
    """Return whether *node* is free for the next request: a killed driver may have ordered it for no request."""
    return node.provider == "cloud" and node.state is NodeState.READY and not node.allocated_to


async def test_killed_driver_gives_no_slot_twice_and_leaves_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    stop, served = asyncio.Event(), list[RequestState]()
    before = set(children_of(os.getpid()))
    async with asyncio.timeout(DEADLINE_S), site(tmp_path) as made:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(keep_asking(made, stop, served))
            await kill_now_and_then(made, random.Random(seed))
            stop.set()
        assert RequestState.FULFILLED in served, f"seed {seed}: {served}"
        await made.until(lambda: all(map(is_idle_backing, made.nodes())))
        while await left(made):
            await asyncio.sleep(0.05)
        assert not made.view.requests, f"seed {seed}"
    assert set(children_of(os.getpid())) <= before, f"seed {seed}"


async def test_driver_that_is_killed_while_it_waits_asks_for_its_node_again(tmp_path: Path) -> None:
    """Its order was the process's; it is withdrawn with it, and given again."""
    async with asyncio.timeout(DEADLINE_S), site(tmp_path) as made:
        first = await made.finished("slot")
        assert first.state is RequestState.FULFILLED
        async with made.client.hold(first):
            child = driver_of(made).supervisor.child
            assert child is not None
            os.kill(child.pid, signal.SIGKILL)
            second = await made.finished("slot")
            assert second.state is RequestState.FULFILLED
            async with made.client.hold(second):
                slots = {
                    (node.driver_data["backing_node"], node.driver_data["slot"])  # type: ignore[index]
                    for node in made.nodes(NodeState.IN_USE)
                    if node.provider == "meta"
                }
                assert len(slots) == 2
        await made.until(lambda: not made.nodes())
        assert len(made.view.requests) == 0
