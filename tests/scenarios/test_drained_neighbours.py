"""A launcher that drains beside another: it is not registered any more, and still shares what is limited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.engine.launch import slots
from nodelaunch.engine.limits.sharing import ACKNOWLEDGED_S
from nodelaunch.engine.nodelocks import HeldNode, PoolContext
from nodelaunch.engine.view import NodeSeen
from nodelaunch.launcher import Launcher
from nodelaunch.protocol import paths
from nodelaunch.protocol.states import RequestState
from support.launchers import Running, at_work, running, written

pytestmark = pytest.mark.looptime


@pytest.fixture(autouse=True)
def _all_is_logged() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))


class Gate:
    """Keeps a launcher that has decided to create a node from creating it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()


@contextmanager
def gated(monkeypatch: pytest.MonkeyPatch, launcher: Launcher) -> Iterator[Gate]:
    """Hold the creates of *launcher* until the gate opens."""
    gate, create = Gate(), slots.create_node

    async def wait_and_create(ctx: PoolContext, *rest: Any) -> HeldNode:
        if ctx.shared._own_id == launcher.id:
            gate.reached.set()
            await gate.open.wait()
        return await create(ctx, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(slots, "create_node", wait_and_create)
        try:
            yield gate
        finally:
            gate.open.set()


@asynccontextmanager
async def two(folder: Path, **values: object) -> AsyncIterator[tuple[Running, Launcher]]:
    async with running(folder, **values) as site, asyncio.timeout(600):
        second = written(folder, name="second.yaml", **values)
        async with at_work(second, site.store.connect(), hostname="there") as other:
            await site.until(lambda: len(site.view.launchers) == 2)
            await site.until(lambda: all(seen.record.knows for seen in site.view.presences.values()))
            yield site, other


def warnings(logs: list[Any]) -> list[Any]:
    return [entry for entry in logs if entry["log_level"] in ("warning", "error")]


async def test_draining_launcher_launches_what_it_has_accepted_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others know of it as long as it works."""
    async with two(tmp_path, boot_time=1.0) as (site, other):
        with gated(monkeypatch, site.launcher) as gate, capture_logs() as logs:
            handles = [await site.client.submit(["small"]) for _ in range(8)]
            await gate.reached.wait()
            draining = asyncio.ensure_future(site.launcher.drain())
            await site.until(lambda: len(other.view.pools) == 1)
            await asyncio.sleep(1.0)
            began = asyncio.get_running_loop().time()
            gate.open.set()
            await draining
            assert asyncio.get_running_loop().time() - began < ACKNOWLEDGED_S
            requests = [await handle.finished() for handle in handles]
            assert {request.state for request in requests} == {RequestState.FULFILLED}
        assert warnings(logs) == []


async def test_limits_hold_beside_a_launcher_that_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that does not drain shares the ledger until the other launcher's work is done."""
    async with two(tmp_path, boot_time=1.0, max_servers=1) as (site, other):
        most = 0

        def count(_note: NodeSeen) -> None:
            nonlocal most
            most = max(most, len(other.view.nodes))

        other.view.subscribe(count, NodeSeen)
        with gated(monkeypatch, site.launcher) as gate:
            jobs = [asyncio.ensure_future(site.job("small")) for _ in range(8)]
            await gate.reached.wait()
            draining = asyncio.ensure_future(site.launcher.drain())
            await site.until(lambda: len(other.view.pools) == 1)
            await site.until(lambda: any(int(node.id) >= 2 for node in site.nodes()))
            told = (await site.client.store.get(paths.ledger("cloud"))).stat.version
            assert told >= 3, "the other launcher created a node and did not tell"
            gate.open.set()
            await asyncio.gather(draining, *jobs)
        assert most == 1


async def test_launcher_that_is_new_knows_of_one_that_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new launcher never saw the other one's registration."""
    async with running(tmp_path, boot_time=1.0) as site, asyncio.timeout(600):
        with gated(monkeypatch, site.launcher) as gate, capture_logs() as logs:
            first = await site.client.submit(["small"])
            await gate.reached.wait()
            draining = asyncio.ensure_future(site.launcher.drain())
            await site.until(lambda: not site.view.pools)
            second = written(tmp_path, name="second.yaml")
            async with at_work(second, site.store.connect(), hostname="there"):
                await site.until(lambda: len(site.view.pools) == 1)
                began = asyncio.get_running_loop().time()
                assert (await site.finished("small")).state is RequestState.FULFILLED
                assert asyncio.get_running_loop().time() - began < ACKNOWLEDGED_S
                assert (await site.client.store.get(paths.ledger("cloud"))).stat.version > 0
                gate.open.set()
                await draining
                assert (await first.finished()).state is RequestState.FULFILLED
        assert warnings(logs) == []


async def test_provider_that_is_taken_out_is_shared_until_its_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path, boot_time=1.0) as (site, other):
        with gated(monkeypatch, site.launcher) as gate:
            handles = [await site.client.submit(["small"]) for _ in range(8)]
            await gate.reached.wait()
            await site.launcher.reload(site.launcher.config.model_copy(update={"providers": ()}))
            await site.until(lambda: len(other.view.pools) == 1)
            assert other.view.sharers_at("cloud") == {site.launcher.id, other.id}
            gate.open.set()
            for handle in handles:
                assert (await handle.finished()).state is RequestState.FULFILLED
            await site.until(lambda: other.view.sharers_at("cloud") == {other.id})
