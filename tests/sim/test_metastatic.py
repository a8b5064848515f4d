"""Metastatic nodes on a virtual clock: slots given, shared between launchers, given back; backing nodes kept and let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.client import NodeClient
from nodelaunch.errors import KeyScanError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded import EmbeddedStore
from support.launchers import LoopClock, Running

pytestmark = pytest.mark.looptime

CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: backing}}, {{name: slot}}]
providers:
  - name: cloud
    driver: fake
    region-name: north
    boot-time: 1.0
    delete-time: 0.5
    cloud-images: [{{name: image, username: ci, python-path: /usr/bin/python3, connection-port: 2222}}]
    pools:
      - name: main
        max-servers: {max_servers}
        node-attributes: {{site: cloud, rack: r1}}
        labels: [{{name: backing, cloud-image: image, min-ram: 8192}}]
  - name: meta
    driver: metastatic
    pools:
      - name: main
        node-attributes: {{site: meta}}
        labels: [{labels}]
"""
LABEL = "{{name: slot, backing-label: backing, max-parallel-jobs: 2, {more}}}"


class Site(Running):
    """A launcher of a provider ``meta`` on a provider ``cloud``."""

    @property
    def slots(self) -> list[Node]:
        return [node for node in self.nodes() if node.provider == "meta"]

    @property
    def backings(self) -> list[Node]:
        return sorted((node for node in self.nodes() if node.provider == "cloud"), key=lambda node: node.id)


@asynccontextmanager
async def site(
    folder: Path, store: EmbeddedStore, *, label: str = "", labels: str | None = None, max_servers: int = 10
) -> AsyncIterator[Site]:
    path = folder / "nodepool.yaml"
    wanted = LABEL.format(more=label) if labels is None else labels
    path.write_text(CONFIG.format(labels=wanted, max_servers=max_servers))
    session = store.connect()
    launcher = Launcher(load_config(path), store=session, clock=LoopClock(), hostname="here")
    async with launcher:
        at_work = asyncio.ensure_future(launcher.run())
        async with store.connect() as other, NodeClient(other, clock=LoopClock()) as client:
            made = Site(launcher, client, session)
            try:
                await made.until(lambda: not launcher.readiness())
                yield made
            finally:
                at_work.cancel()
                await asyncio.gather(at_work, return_exceptions=True)


@pytest.fixture
async def store() -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(None, clock=LoopClock().now) as opened:
        yield opened


async def test_metastatic(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as here:
        first, second = (await here.finished("slot", "slot")).nodes
        (backing,) = here.backings
        assert backing.state is NodeState.IN_USE
        assert {node.slot for node in here.slots} == {0, 1}
