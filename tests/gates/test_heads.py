"""The scheduler examines only requests that an event can affect, with any number of requests waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.foreign import node_body
from nodelaunch.client.nodes import NodeClient, RequestHandle
from nodelaunch.launcher import Launcher
from nodelaunch.protocol import paths
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import LoopClock, at_work

pytestmark = [pytest.mark.gate, pytest.mark.looptime]

LINES = (3, 15)
"""Providers, each with one label that only it offers, and so lines of waiting requests."""
WAITING = 5
"""Requests in each line, behind the one that has the only slot."""
QUIET_S = 5.0
"""Virtual seconds after which nothing is left to do."""
MOST_AFTER_RETURN = 6
"""Heads judged after a node is returned: the one that gets its capacity and the next one, at each of three events."""


class Site:
    """A launcher whose every slot is taken, with as many lines waiting for one as it has providers."""

    def __init__(self, launcher: Launcher, client: NodeClient, store: EmbeddedStore) -> None:
        self.client, self.store = client, store
        self._launcher: Any = launcher
        self._held: list[AsyncExitStack] = []

    @property
    def judged(self) -> int:
        judged: int = self._launcher.scheduler.counters.heads_judged
        return judged

    async def fill(self, lines: int) -> None:
        for number in range(lines):
            first = await (await self.submit(number)).finished()
            self._held.append(AsyncExitStack())
            await self._held[-1].enter_async_context(self.client.hold(first))
            for _ in range(WAITING):
                await self.submit(number)
        await asyncio.sleep(QUIET_S)

    async def submit(self, line: int) -> RequestHandle:
        return await self.client.submit([f"label-{line}"])

    async def give_back_one(self) -> None:
        """A node of the last line."""
        await self._held.pop().aclose()

    async def give_back_all(self) -> None:
        while self._held:
            await self.give_back_one()


def _config(lines: int) -> dict[str, Any]:
    return {
        "labels": [{"name": f"label-{number}"} for number in range(lines)],
        "providers": [
            {
                "name": f"provider-{number}",
                "driver": "test",
                "pools": [{"name": "main", "max-servers": 1, "labels": [f"label-{number}"]}],
            }
            for number in range(lines)
        ],
    }


@asynccontextmanager
async def _site(folder: Path, lines: int) -> AsyncIterator[Site]:
    path = folder / "nodepool.yaml"
    path.write_text(json.dumps(_config(lines)))
    store = EmbeddedStore(None, clock=LoopClock().now)
    async with (
        asyncio.timeout(600),
        at_work(path, store) as launcher,
        store.connect() as session,
        NodeClient(session, clock=LoopClock()) as client,
    ):
        site = Site(launcher, client, store)
        await site.fill(lines)
        try:
            yield site
        finally:
            await site.give_back_all()


@pytest.mark.parametrize("lines", LINES)
async def test_request_behind_a_waiting_one_judges_at_most_one_head(tmp_path: Path, lines: int) -> None:
    async with _site(tmp_path, lines) as site:
        before = site.judged
        await site.submit(0)
        await asyncio.sleep(QUIET_S)
        assert site.judged - before <= 1


@pytest.mark.parametrize("lines", LINES)
async def test_foreign_node_judges_no_head(tmp_path: Path, lines: int) -> None:
    async with _site(tmp_path, lines) as site:
        before = site.judged
        entry = await site.store.create(f"{paths.NODES}/", json.dumps(node_body()).encode(), sequence=True)
        await site.store.put(entry.path, json.dumps(node_body() | {"state": "used"}).encode())
        await site.store.delete(entry.path)
        await asyncio.sleep(QUIET_S)
        assert site.judged == before


@pytest.mark.parametrize("lines", LINES)
async def test_room_given_back_judges_only_the_line_that_it_is_for(tmp_path: Path, lines: int) -> None:
    async with _site(tmp_path, lines) as site:
        before = site.judged
        await site.give_back_one()
        await asyncio.sleep(QUIET_S)
        assert 1 <= site.judged - before <= MOST_AFTER_RETURN


@pytest.mark.parametrize("lines", LINES)
async def test_idle_launcher_judges_nothing(tmp_path: Path, lines: int) -> None:
    async with _site(tmp_path, lines) as site:
        before = site.judged
        await asyncio.sleep(30 * QUIET_S)
        assert site.judged == before
