"""Static machines on a virtual clock: registered, updated in place, handed out, taken out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.errors import KeyScanError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import LoopClock, Running

pytestmark = pytest.mark.looptime
KEY, OTHER_KEY = "ssh-ed25519 AAAAone", "ssh-ed25519 AAAAtwo"
CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: bare}}, {{name: arm}}, {{name: new}}]
providers:
  - name: lab
    driver: static
    pools:
      - name: rack
        node-attributes: {{rack: r1}}
        nodes: [{nodes}]
"""
ONE = "{{name: 127.0.0.1, labels: [{labels}], {more}}}"


class Hosts:
    """A scanner of hosts that are as a test says."""

    def __init__(self) -> None:
        self.keys: tuple[str, ...] = (KEY,)
        self.is_up = True

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        await self.reach(host, port, timeout_s=timeout_s)
        return self.keys

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        if not self.is_up:
            raise KeyScanError(f"{host}:{port} refused")


@asynccontextmanager
async def lab(folder: Path, store: EmbeddedStore, hosts: Hosts, *nodes: str) -> AsyncIterator[Running]:
    path = folder / "nodepool.yaml"
    path.write_text(CONFIG.format(nodes=", ".join(nodes)))
    session = store.connect()
    launcher = Launcher(load_config(path), store=session, clock=LoopClock(), scanner=hosts, hostname="here")
    async with launcher:
        at_work = asyncio.ensure_future(launcher.run())
        async with store.connect() as other, NodeClient(other, clock=LoopClock()) as client:
            site = Running(launcher, client, session)
            try:
                await site.until(lambda: not launcher.readiness())
                yield site
            finally:
                at_work.cancel()
                await asyncio.gather(at_work, return_exceptions=True)


@pytest.fixture
async def store() -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(None, clock=LoopClock().now) as opened:
        yield opened


def idle(site: Running) -> list[str]:
    return sorted(node.id for node in site.nodes() if node.is_idle)


async def test_each_slot_is_registered_with_all_its_labels(tmp_path: Path, store: EmbeddedStore) -> None:
    node = ONE.format(labels="bare, arm", more="max-parallel-jobs: 2, username: ci, connection-port: 2222")
    async with lab(tmp_path, store, Hosts(), node) as site:
        await site.until(lambda: len(idle(site)) == 2)
        first, second = sorted(site.nodes(), key=lambda node: node.slot or 0)
        assert (first.slot, second.slot) == (0, 1)
        for node_ in (first, second):
            assert node_.type == ("bare", "arm")
            assert (node_.hostname, node_.interface_ip, node_.external_id) == ("127.0.0.1",) * 3
            assert (node_.username, node_.connection_port, node_.host_keys) == ("ci", 2222, (KEY,))
            assert (node_.launcher, node_.attributes, node_.python_path) == ("static driver", {"rack": "r1"}, "auto")
            assert node_.resources is None


async def test_used_machine_is_registered_anew_with_its_present_keys(tmp_path: Path, store: EmbeddedStore) -> None:
    hosts = Hosts()
    async with lab(tmp_path, store, hosts, ONE.format(labels="bare", more="")) as site:
        await site.until(lambda: len(idle(site)) == 1)
        (before,) = idle(site)
        hosts.keys = (OTHER_KEY,)
        (node,) = await site.job("bare")
        assert (node.id, node.host_keys) == (before, (KEY,))
        await site.until(lambda: bool(idle(site)) and idle(site) != [before])
        assert [n.host_keys for n in site.nodes()] == [(OTHER_KEY,)]


async def test_requests_wait_for_a_busy_machine_in_their_order(tmp_path: Path, store: EmbeddedStore) -> None:
    async with lab(tmp_path, store, Hosts(), ONE.format(labels="bare", more="")) as site:
        submits = (site.client.submit(["bare"], relative_priority=n) for n in (3, 1, 2))
        handles = await asyncio.gather(*submits)  # all are there before one is decided on
        served: list[int] = []

        async def use(number: int) -> None:
            request = await handles[number].finished()
            served.append(request.relative_priority)
            async with site.client.hold(request):
                await asyncio.sleep(1)

        await asyncio.gather(*(use(number) for number in range(3)))
        assert served == [1, 2, 3]


async def test_more_machines_than_there_are_is_declined_at_once(tmp_path: Path, store: EmbeddedStore) -> None:
    async with lab(tmp_path, store, Hosts(), ONE.format(labels="bare", more="")) as site:
        assert (await site.finished("bare", "bare")).state is RequestState.FAILED


async def test_unreachable_machine_is_not_handed_out_and_comes_back(tmp_path: Path, store: EmbeddedStore) -> None:
    hosts = Hosts()
    async with lab(tmp_path, store, hosts, ONE.format(labels="bare", more="")) as site:
        await site.until(lambda: len(idle(site)) == 1)
        (before,) = idle(site)
        hosts.is_up = False
        handle = await site.client.submit(["bare"])
        await site.until(lambda: not site.view.nodes and handle.id in site.view.open_requests)
        hosts.is_up = True
        request = await handle.finished()
        assert request.state is RequestState.FULFILLED
        assert request.nodes != (before,)


async def test_machine_with_a_wrong_key_is_not_registered(tmp_path: Path, store: EmbeddedStore) -> None:
    hosts = Hosts()
    node = ONE.format(labels="bare", more=f"host-key: '{OTHER_KEY}'")
    async with lab(tmp_path, store, hosts, node) as site:
        await asyncio.sleep(30)
        assert not site.view.nodes
        hosts.keys = (KEY, OTHER_KEY)
        await site.until(lambda: len(idle(site)) == 1)


async def test_changed_machine_is_updated_in_place_and_a_removed_one_goes(tmp_path: Path, store: EmbeddedStore) -> None:
    two = ONE.format(labels="bare", more="username: other")
    async with lab(tmp_path, store, Hosts(), ONE.format(labels="bare", more=""), two) as site:
        await site.until(lambda: len(idle(site)) == 2)
        (kept,) = [node.id for node in site.nodes() if node.username == "zuul"]
    hosts = Hosts()
    hosts.keys = (OTHER_KEY,)
    async with lab(tmp_path, store, hosts, ONE.format(labels="new", more="shell-type: csh")) as site:
        await site.until(lambda: [node.type for node in site.nodes()] == [("new",)])
        (node,) = site.nodes()
        assert (node.id, node.shell_type, node.host_keys) == (kept, "csh", (OTHER_KEY,))


async def test_surplus_slot_in_use_goes_after_its_use(tmp_path: Path, store: EmbeddedStore) -> None:
    hosts = Hosts()
    async with store.connect() as holder, NodeClient(holder, clock=LoopClock()) as client:
        async with lab(tmp_path, store, hosts, ONE.format(labels="bare", more="max-parallel-jobs: 2")):
            request = await (await client.submit(["bare", "bare"])).finished()
            keeping = client.hold(request)
            await keeping.__aenter__()
        async with lab(tmp_path, store, hosts, ONE.format(labels="bare", more="")) as fewer:
            await asyncio.sleep(30)
            assert len(fewer.nodes(NodeState.IN_USE)) == 2
            await keeping.__aexit__(None, None, None)
            await fewer.until(lambda: len(idle(fewer)) == 1 and len(fewer.view.nodes) == 1)
            assert fewer.nodes()[0].slot == 0
