"""Machines that exist already. A test bears the name of Nodepool's test of the same behaviour.

Names are literal addresses, so that no name server is asked. The same with a real SSH server is in
tests/integration/test_static_sshd.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.engine.cleanup.sweeper import SWEEP_S
from nodelaunch.errors import ConfigError
from nodelaunch.launcher import load_config
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.verdicts import NoFreeMachine
from nodelaunch.store.embedded.store import EmbeddedStore
from support.sites import (
    KEY,
    OTHER_KEY,
    Data,
    Hosts,
    Site,
    config,
    lab,
    launched,
    machine,
    pool,
    provider,
    shared_store,
    write_config,
)

pytestmark = pytest.mark.looptime
HOST, OTHER_HOST = "127.0.0.1", "127.0.0.2"


@asynccontextmanager
async def _lab(
    folder: Path,
    *machines: Data,
    hosts: Hosts | None = None,
    store: EmbeddedStore | None = None,
    idle: int | None = None,
) -> AsyncIterator[Site]:
    """A lab of *machines* all of which, or *idle*, are registered."""
    top = config(lab(*machines, node_attributes={"rack": "r1"}))
    async with launched(folder, top, scanner=hosts or Hosts(), store=store) as site:
        await site.until(lambda: len(site.idle) == (len(machines) if idle is None else idle))
        yield site


async def _use(site: Site, *labels: str) -> list[Node]:
    """Get and return nodes of *labels*; return the nodes as they were."""
    request = await site.fulfilled(*labels)
    nodes = site.nodes_of(request)
    await (await site.take(request)).give_all_back()
    return nodes


async def _registered_anew(site: Site, before: Node) -> Node:
    """Wait until the slot of *before* has another record."""
    await site.until(lambda: before.id not in site.view.nodes and any(_is_slot_of(before, node) for node in site.idle))
    (after,) = (node for node in site.idle if _is_slot_of(before, node))
    return after


def _is_slot_of(one: Node, other: Node) -> bool:
    return (one.hostname, one.username, one.slot) == (other.hostname, other.username, other.slot)


# -- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        {"name": HOST},
        {"labels": ["bare"]},
        machine(HOST, "bare", max_parallel_jobs=0),
        machine(HOST, "bare", connection_port="ssh"),
        machine(HOST, "bare", timout=3),
        machine(HOST, "two words"),
    ],
)
def test_static_validator(tmp_path: Path, broken: Data) -> None:
    top = config(lab(machine(HOST)))
    top["providers"][0]["pools"][0]["nodes"] = [broken]
    with pytest.raises(ConfigError):
        load_config(write_config(tmp_path, top))


def test_static_config(tmp_path: Path) -> None:
    path = write_config(tmp_path, config(lab(machine(HOST), machine(OTHER_HOST, host_key=KEY, max_parallel_jobs=2))))
    assert load_config(path) == load_config(path)


# -- records --------------------------------------------------------------------------------------------------------


async def test_static_basic(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST, "bare", connection_port=22022)) as site:
        (node,) = site.idle
        assert (node.state, node.provider, node.pool, node.launcher) == (
            NodeState.READY, "lab", "rack", "static driver",
        )  # fmt: skip
        assert node.type == ("bare",)
        assert (node.hostname, node.interface_ip, node.external_id) == (HOST,) * 3
        assert (node.public_ipv4, node.public_ipv6) == (HOST, None)
        assert (node.username, node.connection_port, node.ssh_port, node.connection_type) == (
            "zuul",
            22022,
            22022,
            "ssh",
        )
        assert (node.host_keys, node.attributes) == ((KEY,), {"rack": "r1"})
        assert (node.python_path, node.shell_type, node.slot) == ("auto", None, 0)
        assert (node.resources, node.image_id, node.allocated_to) == (None, None, None)


async def test_static_reuse(tmp_path: Path) -> None:
    """The machine is registered again at once, not at the next sweep."""
    async with _lab(tmp_path, machine(HOST)) as site:
        started = asyncio.get_running_loop().time()
        (before,) = await _use(site, "bare")
        after = await _registered_anew(site, before)
        assert asyncio.get_running_loop().time() - started < SWEEP_S
        assert (after.type, after.slot, after.host_keys) == (before.type, before.slot, before.host_keys)


async def test_static_python_path(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST, python_path="/usr/bin/python3")) as site:
        (before,) = await _use(site, "bare")
        after = await _registered_anew(site, before)
        assert (before.python_path, after.python_path) == ("/usr/bin/python3",) * 2


async def test_static_shell_type(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST, shell_type="cmd")) as site:
        (before,) = await _use(site, "bare")
        after = await _registered_anew(site, before)
        assert (before.shell_type, after.shell_type) == ("cmd",) * 2


async def test_static_multiname(tmp_path: Path) -> None:
    machines = machine(HOST, "bare", username="one"), machine(HOST, "other", username="two")
    async with _lab(tmp_path, *machines) as site:
        one, two = sorted(site.idle, key=lambda node: node.username or "")
        assert (one.username, two.username, one.hostname) == ("one", "two", two.hostname)
        (used,) = await _use(site, "bare")
        assert used.id == one.id
        after = await _registered_anew(site, one)
        await site.a_while()
        assert {node.id for node in site.nodes()} == {after.id, two.id}


async def test_static_unresolvable(tmp_path: Path) -> None:
    hosts = Hosts()
    hosts.down.add("not-there.invalid")
    machines = machine("not-there.invalid", "bare"), machine(HOST, "bare")
    async with _lab(tmp_path, *machines, hosts=hosts, idle=1) as site:
        assert [node.hostname for node in await site.got("bare")] == [HOST]


async def test_static_node_update_startup(tmp_path: Path) -> None:
    async with shared_store() as store:
        async with _lab(tmp_path, machine(HOST, "bare"), store=store) as site:
            (before,) = site.idle
        async with _lab(tmp_path, machine(HOST, "bare", "new"), store=store) as site:
            await site.until(lambda: [node.type for node in site.idle] == [("bare", "new")])
            assert [node.id for node in site.nodes()] == [before.id]


async def test_static_multilabel(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST, "bare", "arm", "big")) as site:
        assert [node.type for node in site.idle] == [("bare", "arm", "big")]


async def test_missing_static_node(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST, max_parallel_jobs=2), idle=2) as site:
        first, second = sorted(site.idle, key=lambda node: node.slot or 0)
        await site.store.delete_tree(paths.node(first.id))
        after = await _registered_anew(site, first)
        assert {node.id for node in site.nodes()} == {after.id, second.id}


# -- handing out ----------------------------------------------------------------------------------------------------


async def test_static_handler(tmp_path: Path) -> None:
    machines = machine(HOST, "bare"), machine(OTHER_HOST, "windows", connection_type="winrm", connection_port=5986)
    async with _lab(tmp_path, *machines) as site:
        keys = {node.type: node.host_keys for node in site.idle}
        assert keys == {("bare",): (KEY,), ("windows",): ()}
        for name in ("bare", "windows"):
            (node,) = await _use(site, name)
            await _registered_anew(site, node)
        assert len(site.nodes()) == 2


async def test_static_waiting_handler(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST, "bare"), machine(OTHER_HOST, "arm")) as site:
        first = await site.fulfilled("bare")
        waiting = await site.ask("bare")
        states = site.states_of(waiting)
        await site.fulfilled("arm")
        jobs = await site.take(first)
        await site.a_while()
        assert (states, site.request(waiting).declined_by) == ([RequestState.REQUESTED], ())
        verdict = site.launcher.scheduler.explainer.verdict(waiting.id, ("lab", "rack"))
        assert verdict.reasons == (NoFreeMachine("bare"),)  # type: ignore[union-attr]
        await jobs.give_all_back()
        assert (await waiting.finished()).state is RequestState.FULFILLED


async def test_static_waiting_handler_order(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST)) as site:
        last = await site.fulfilled("bare")
        waiting = {
            number: await site.ask("bare", priority=priority)
            for number, priority in enumerate(["300", "200", "100", "200"])
        }
        served: list[int] = []
        while waiting:
            await (await site.take(last)).give_all_back()
            number, last = await site.first_fulfilled(waiting)
            served.append(number)
        assert served == [2, 1, 3, 0]


async def test_label_quota(tmp_path: Path) -> None:
    """A request that takes a machine takes it for all its labels."""
    async with _lab(tmp_path, machine(HOST, "bare", "arm"), machine(OTHER_HOST, "big")) as site:
        first = await site.fulfilled("bare")
        waiting = await site.ask("arm")
        states = site.states_of(waiting)
        await site.fulfilled("big")
        await site.a_while()
        assert states == [RequestState.REQUESTED]
        await (await site.take(first)).give_all_back()
        assert (await waiting.finished()).state is RequestState.FULFILLED


async def test_static_ignore_assigned_ready_nodes(tmp_path: Path) -> None:
    """A node that is assigned and not yet taken stays as it is, even if its machine fails or leaves the
    configuration.
    """
    hosts = Hosts()
    async with _lab(tmp_path, machine(HOST), hosts=hosts) as site:
        request = await site.fulfilled("bare")
        (node,) = site.nodes_of(request)
        hosts.keys = (OTHER_KEY,)
        hosts.down.add(HOST)
        await site.a_while()
        assert site.nodes() == [node]
        assert node.allocated_to == request.id


async def test_static_multinode_handler(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST, "bare"), machine(OTHER_HOST, "arm")) as site:
        nodes = await site.got("arm", "bare")
        assert [node.hostname for node in nodes] == [OTHER_HOST, HOST]


async def test_static_multiprovider_handler(tmp_path: Path) -> None:
    async with launched(tmp_path, config(lab(machine(HOST)), provider(pool("small"))), scanner=Hosts()) as site:
        (bare,), (small,) = await site.got("bare"), await site.got("small")
        assert (bare.provider, small.provider) == ("lab", "cloud")


async def test_static_request_handled(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST)) as site:
        (registered,) = site.idle
        (used,) = await _use(site, "bare")
        assert used.id == registered.id
        after = await _registered_anew(site, registered)
        assert after.hostname == registered.hostname


# -- machines that do not answer ------------------------------------------------------------------------------------


async def test_liveness_check(tmp_path: Path) -> None:
    hosts = Hosts()
    async with _lab(tmp_path, machine(HOST), hosts=hosts) as site:
        (before,) = site.idle
        hosts.down.add(HOST)
        handle = await site.ask("bare")
        states = site.states_of(handle)
        await site.until(lambda: before.id not in site.view.nodes)
        await site.a_while()
        assert site.view.nodes == {}
        assert states[-1] is RequestState.REQUESTED
        hosts.down.clear()
        request = await handle.finished()
        assert request.state is RequestState.FULFILLED
        assert request.declined_by == ()
        assert before.id not in request.nodes


async def test_liveness_two_node(tmp_path: Path) -> None:
    hosts = Hosts()
    async with _lab(tmp_path, machine(HOST, "bare"), machine(OTHER_HOST, "arm"), hosts=hosts) as site:
        healthy = next(node for node in site.idle if node.hostname == OTHER_HOST)
        hosts.down.add(HOST)
        waiting = await site.ask("bare")
        await site.until(lambda: [node.hostname for node in site.nodes()] == [OTHER_HOST])
        assert [node.id for node in await site.got("arm")] == [healthy.id], "no innocent machine was given up"
        hosts.down.clear()
        assert (await waiting.finished()).state is RequestState.FULFILLED


async def test_host_key_checking_toggle(tmp_path: Path) -> None:
    hosts = Hosts()
    async with shared_store() as store:
        unchecked = machine(HOST, host_key_checking=False, host_key=KEY)
        async with _lab(tmp_path, unchecked, hosts=hosts, store=store) as site:
            (node,) = await site.got("bare")
            assert (node.host_keys, hosts.asked) == ((KEY,), [])
        async with _lab(tmp_path, machine(HOST, host_key=KEY), hosts=hosts, store=store) as site:
            await site.got("bare")
            assert {what for what, _, _ in hosts.asked} == {"keys", "reach"}


# -- another configuration while it runs ----------------------------------------------------------------------------


async def _reload(site: Site, *machines: Data) -> None:
    await site.reload(config(lab(*machines, node_attributes={"rack": "r1"})))


def _slots(site: Site) -> list[tuple[str | None, int | None]]:
    """Host and slot of each node, sorted; nothing while one is not idle."""
    idle = site.idle
    return sorted((node.hostname, node.slot) for node in idle) if len(idle) == len(site.nodes()) else []


async def test_static_node_increase(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST)) as site:
        (before,) = site.idle
        await _reload(site, machine(HOST), machine(OTHER_HOST))
        await site.until(lambda: _slots(site) == [(HOST, 0), (OTHER_HOST, 0)])
        assert before.id in site.view.nodes


async def test_static_node_decrease(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST), machine(OTHER_HOST)) as site:
        kept = next(node for node in site.idle if node.hostname == OTHER_HOST)
        await _reload(site, machine(OTHER_HOST))
        await site.until(lambda: _slots(site) == [(OTHER_HOST, 0)])
        assert kept.id in site.view.nodes


async def test_static_parallel_increase(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST)) as site:
        await _reload(site, machine(HOST, max_parallel_jobs=2))
        await site.until(lambda: _slots(site) == [(HOST, 0), (HOST, 1)])


async def test_static_parallel_decrease(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(HOST, max_parallel_jobs=2), idle=2) as site:
        await _reload(site, machine(HOST))
        await site.until(lambda: _slots(site) == [(HOST, 0)])


async def test_nodes_of_a_request_are_spread_over_machines(tmp_path: Path) -> None:
    """Two slots of one machine are given to one request only where no other machine is free."""
    pair = [machine(name, "bare", f"on-{name[-1]}", max_parallel_jobs=2) for name in (HOST, OTHER_HOST)]
    async with _lab(tmp_path, *pair, idle=4) as site:
        for _ in range(3):
            used = await _use(site, "bare", "bare")
            assert {node.hostname for node in used} == {HOST, OTHER_HOST}
            await site.until(lambda: len(site.idle) == 4)
        mixed = await _use(site, "on-1", "bare")
        assert [node.hostname for node in mixed] == [HOST, OTHER_HOST]
        await site.until(lambda: len(site.idle) == 4)
        everything = await _use(site, *["bare"] * 4)
        assert sorted(node.hostname or "" for node in everything) == [HOST, HOST, OTHER_HOST, OTHER_HOST]


async def test_static_node_update(tmp_path: Path) -> None:
    """Labels and kind of connection change in the record; another user or port is another machine."""
    async with _lab(tmp_path, machine(HOST, "bare"), machine(OTHER_HOST, "arm")) as site:
        changed, moved = sorted(site.idle, key=lambda node: node.hostname or "")
        await _reload(
            site,
            machine(HOST, "bare", "big", connection_type="winrm"),
            machine(OTHER_HOST, "arm", username="other", connection_port=5986),
        )
        await site.until(lambda: any(node.username == "other" for node in site.idle) and len(site.nodes()) == 2)
        await site.until(lambda: site.view.nodes[changed.id].record.type == ("bare", "big"))
        node = site.view.nodes[changed.id].record
        assert (node.connection_type, node.host_keys) == ("winrm", ())
        (new,) = (node for node in site.idle if node.id != changed.id)
        assert new.id != moved.id
        assert (new.hostname, new.username, new.connection_port, new.type) == (OTHER_HOST, "other", 5986, ("arm",))
