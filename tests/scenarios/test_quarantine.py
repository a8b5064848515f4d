"""Machines that go away and come back, on a virtual clock: quarantine, and the guard for the case that it is our fault.

The same with real SSH servers is in tests/integration/test_quarantine_sshd.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.client.nodes import RequestHandle
from nodelaunch.drivers.static import StaticDriver
from nodelaunch.engine.provider.hostwatch import HostWatch, machine_of
from nodelaunch.engine.supply.inventory import Inventory
from nodelaunch.engine.view.sums import IdleIndex
from nodelaunch.errors import ProviderUnavailableError
from nodelaunch.protocol.states import RequestState
from support.sites import KEY, OTHER_KEY, Data, Hosts, Site, config, lab, launched, machine, shared_store

pytestmark = pytest.mark.looptime
ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
MANY = [f"192.0.2.{number}" for number in range(200)]


@pytest.fixture(autouse=True)
def _all_is_logged() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))


class Network(Hosts):
    """Hosts whose connections can be cut at our side, and hosts that fail only when they are handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ours_down = False
        self.deaf: set[str] = set()

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        self.failures = int(host in self.deaf)
        await super().reach(host, port, timeout_s=timeout_s)

    def _ask(self, what: str, host: str, port: int) -> None:
        if self.is_ours_down:
            self.failures = 1
        super()._ask(what, host, port)


Logs = list[Any]


def told(logs: Logs, *events: str) -> list[tuple[str, str | None]]:
    """Return what was logged of hosts, in order, by *events* or by all."""
    known = events or (
        "machine_unusable",
        "machine_quarantined",
        "machine_quarantine_changed",
        "machine_returned",
        "machines_fail_together",
        "machines_fail_alone",
    )
    return [(line["event"], line.get("hostname")) for line in logs if line["event"] in known]


def reasons(site: Site, handle: RequestHandle) -> list[Mapping[str, Any]]:
    """Return the reasons for which the request waits, as `explain` prints them."""
    (standing,) = (each.to_json() for each in site.launcher.scheduler.explainer.explain(handle.id))
    return standing["reasons"]  # type: ignore[no-any-return]


def of(*names: str, **more: Any) -> Data:
    return config(lab(*(machine(name, **more) for name in names)))


def all_idle(count: int) -> Callable[[Site], bool]:
    return lambda site: len(site.idle) == count


# -- one host among others ------------------------------------------------------------------------------------------


async def test_host_that_goes_away_and_comes_back_is_told_in_three_lines(tmp_path: Path) -> None:
    hosts = Network()
    async with launched(tmp_path, of(ONE), scanner=hosts, until=all_idle(1)) as site:
        with capture_logs() as logs:
            hosts.down.add(ONE)
            waiting = await site.ask("bare")
            await site.until(lambda: not site.nodes())
            await site.a_while(3600)
            looks = len(hosts.asked)
            hosts.down.clear()
            assert (await waiting.finished()).state is RequestState.FULFILLED
        assert told(logs) == [("machine_unusable", ONE), ("machine_quarantined", ONE), ("machine_returned", ONE)]
        assert looks < 25, "one a pause, and pauses grow to five minutes"


async def test_all_slots_of_a_host_leave_and_return_together(tmp_path: Path) -> None:
    hosts = Network()
    async with launched(tmp_path, of(ONE, TWO, max_parallel_jobs=3), scanner=hosts, until=all_idle(6)) as site:
        taken = await site.take(await site.fulfilled("bare"))
        ((node, _, _),) = taken.nodes.values()
        hosts.down.add(node.hostname or "")
        await taken.give_all_back()
        await site.until(lambda: {each.hostname for each in site.nodes()} == {ONE, TWO} - {node.hostname})
        assert len(site.idle) == 3
        hosts.down.clear()
        await site.until(lambda: len(site.idle) == 6)


async def test_request_is_served_by_others_while_one_is_away(tmp_path: Path) -> None:
    hosts = Network()
    async with launched(tmp_path, of(ONE, TWO), scanner=hosts, until=all_idle(2)) as site:
        hosts.down.add(ONE)
        used = [await site.fulfilled("bare") for _ in range(1)]
        assert [node.hostname for node in site.nodes_of(used[0])] == [TWO]


async def test_host_with_another_key_loses_its_ready_nodes_at_once(tmp_path: Path) -> None:
    hosts = Network()
    content = of(ONE, max_parallel_jobs=2, host_key=KEY)
    async with launched(tmp_path, content, scanner=hosts, until=all_idle(2)) as site:
        taken = await site.take(await site.fulfilled("bare"))
        hosts.keys = (OTHER_KEY,)
        with capture_logs() as logs:
            await taken.give_all_back()
            await site.until(lambda: not site.nodes())
            waiting = await site.ask("bare")
            await site.a_while(60)
            why, away = reasons(site, waiting)
            assert why["text"] == "no machine of label bare is free"
            assert away["kind"] == "MachineAway"
            assert away["text"].startswith(f"machine {ONE} (user zuul, port 22) is in quarantine for 60 s: ")
            assert f"{ONE} port 22 does not have the configured host key: expected {KEY}, " in away["text"]
            assert "compare the host keys" in away["remedy"]
            assert 0 <= away["facts"]["next_look_s"] <= 300
            hosts.keys = (KEY, OTHER_KEY)
            assert (await waiting.finished()).state is RequestState.FULFILLED
        assert told(logs) == [("machine_quarantined", ONE), ("machine_returned", ONE)]


async def test_other_cause_is_told_once(tmp_path: Path) -> None:
    hosts = Network()
    hosts.keys = (OTHER_KEY,)
    with capture_logs() as logs:
        async with launched(tmp_path, of(ONE, host_key=KEY), scanner=hosts) as site:
            await site.a_while()
            hosts.down.add(ONE)
            await site.a_while(1000)
    assert told(logs) == [("machine_quarantined", ONE), ("machine_quarantine_changed", ONE)]


async def test_corrected_configuration_has_the_host_back_at_once(tmp_path: Path) -> None:
    hosts = Network()
    hosts.keys = (OTHER_KEY,)
    async with launched(tmp_path, of(ONE, host_key=KEY), scanner=hosts) as site:
        await site.a_while(3000)
        started = asyncio.get_running_loop().time()
        await site.reload(of(ONE, host_key=OTHER_KEY))
        await site.until(lambda: len(site.idle) == 1)
        assert asyncio.get_running_loop().time() - started < 1.5


async def test_driver_that_does_not_know_its_machines_yet_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver in its own process does not know its machines until the process has answered."""
    asked, machines = 0, StaticDriver.machines

    def later(driver: StaticDriver) -> Any:
        nonlocal asked
        asked += 1
        if asyncio.get_running_loop().time() < 20:
            raise ProviderUnavailableError("not yet", provider="lab")
        return machines(driver)

    monkeypatch.setattr(HostWatch, "_learn", _with(StaticDriver, "machines", later, HostWatch._learn))
    async with launched(tmp_path, of(ONE), scanner=Network()) as site:
        await site.until(lambda: len(site.idle) == 1)
        assert 20 <= asyncio.get_running_loop().time() < 25
    assert asked < 30


def _with(owner: type, name: str, other: Callable[..., Any], work: Callable[..., Any]) -> Callable[..., Any]:
    """*work* with *name* of *owner* replaced by *other* meanwhile."""

    async def patched(*args: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, other)
            return await work(*args)

    return patched


async def test_host_that_is_not_configured_any_more_is_looked_at_no_more(tmp_path: Path) -> None:
    hosts = Network()
    hosts.down.add(ONE)
    async with launched(tmp_path, of(ONE, TWO), scanner=hosts, until=all_idle(1)) as site:
        await site.a_while()
        await site.reload(of(TWO))
        hosts.asked.clear()
        await site.a_while(2000)
        assert {name for _, name, _ in hosts.asked} <= {TWO}


async def test_host_that_is_deaf_only_when_handed_out_is_away_for_longer_each_time(tmp_path: Path) -> None:
    hosts = Network()
    async with launched(tmp_path, of(ONE), scanner=hosts, until=all_idle(1)) as site:
        hosts.deaf.add(ONE)
        hosts.asked.clear()
        waiting = await site.ask("bare")
        await site.a_while(3600)
        tries = [what for what, _, _ in hosts.asked].count("reach")
        assert 3 < tries < 25
        hosts.deaf.clear()
        assert (await waiting.finished()).state is RequestState.FULFILLED


async def test_explain_names_some_hosts_and_counts_the_others(tmp_path: Path) -> None:
    hosts = Network()
    async with launched(tmp_path, of(*MANY[:20]), scanner=hosts, until=all_idle(20)) as site:
        for _ in range(12):
            await site.take(await site.fulfilled("bare"))
        hosts.down.update(MANY)
        waiting = await site.ask("bare")
        await site.until(lambda: not site.idle)
        kinds = [each["kind"] for each in reasons(site, waiting)]
        assert kinds == ["NoFreeMachine", *["MachineAway"] * 5, "MoreMachinesAway"]
        assert reasons(site, waiting)[-1]["text"] == "3 more machines of label bare are in quarantine or not used"


# -- most hosts at once ---------------------------------------------------------------------------------------------


async def test_restart_without_network_leaves_all_nodes_registered(tmp_path: Path) -> None:
    """No client gets these nodes, no request fails, and one line reports it; all nodes return with the network."""
    hosts = Network()
    async with shared_store() as store:
        async with launched(tmp_path, of(*MANY), scanner=hosts, store=store, until=all_idle(200)) as site:
            before = [node.id for node in site.idle]
        hosts.is_ours_down = True
        with capture_logs() as logs:
            async with launched(tmp_path, of(*MANY), scanner=hosts, store=store) as site:
                asked = [await site.ask("bare") for _ in range(20)]
                await site.a_while(120)
                assert [node.id for node in site.idle] == before
                assert {site.request(handle).state for handle in asked} == {RequestState.REQUESTED}
                assert reasons(site, asked[0])[-1]["kind"] == "MachinesFailTogether"
                assert not any(what == "reach" for what, _, _ in hosts.asked[-200:]), "no request tries them in turn"
                hosts.is_ours_down = False
                began = asyncio.get_running_loop().time()
                assert {(await handle.finished()).state for handle in asked} == {RequestState.FULFILLED}
                assert asyncio.get_running_loop().time() - began < 10, "the short pause"
                await site.a_while(10)
                assert sorted(site.view.nodes) == before
        whole = told(logs, "machine_quarantined", "machines_fail_together", "machines_fail_alone")
        assert whole == [("machines_fail_together", None), ("machines_fail_alone", None)]


async def test_burst_of_requests_without_network_takes_no_node_away(tmp_path: Path) -> None:
    hosts = Network()
    async with launched(tmp_path, of(*MANY), scanner=hosts, until=all_idle(200)) as site:
        before = [node.id for node in site.idle]
        hosts.is_ours_down = True
        asked = [await site.ask("bare") for _ in range(150)]
        await site.a_while(60)
        assert sorted(site.view.nodes) == before
        hosts.is_ours_down = False
        assert {(await handle.finished()).state for handle in asked} == {RequestState.FULFILLED}


async def test_rack_that_is_really_off_is_quarantined(tmp_path: Path) -> None:
    """Other hosts answer at the same time, so the fault is not the launcher's."""
    hosts = Network()
    async with shared_store() as store:
        async with launched(tmp_path, of(*MANY), scanner=hosts, store=store, until=all_idle(200)):
            pass
        hosts.down.update(MANY[:80])
        with capture_logs() as logs:
            async with launched(tmp_path, of(*MANY), scanner=hosts, store=store) as site:
                await site.until(lambda: len(site.nodes()) == 120)
                await site.a_while(600)
                hosts.asked.clear()
                await site.a_while(3000)
                assert len(hosts.asked) < 80 * 15
                hosts.down.clear()
                await site.until(lambda: len(site.idle) == 200)
        assert not told(logs, "machines_fail_together")
        assert len(told(logs)) == 3 * 80


async def test_hosts_that_stay_away_after_our_own_fault_are_quarantined_then(tmp_path: Path) -> None:
    hosts = Network()
    async with shared_store() as store:
        async with launched(tmp_path, of(*MANY), scanner=hosts, store=store, until=all_idle(200)):
            pass
        hosts.is_ours_down = True
        hosts.down.update(MANY[:10])
        async with launched(tmp_path, of(*MANY), scanner=hosts, store=store) as site:
            await site.a_while(30)
            hosts.is_ours_down = False
            await site.until(lambda: len(site.nodes()) == 190)
            await site.a_while(30)
            assert len(site.idle) == 190


async def test_small_providers_are_guarded_together(tmp_path: Path) -> None:
    hosts = Network()
    content = config(lab(machine(ONE), machine(TWO), name="one"), lab(machine(THREE), name="two"))
    async with shared_store() as store:
        async with launched(tmp_path, content, scanner=hosts, store=store, until=all_idle(3)):
            pass
        hosts.is_ours_down = True
        async with launched(tmp_path, content, scanner=hosts, store=store) as site:
            await site.a_while(600)
            assert len(site.idle) == 3
            hosts.is_ours_down = False
            assert len(await asyncio.gather(*(site.fulfilled("bare") for _ in range(3)))) == 3


# -- several launchers ----------------------------------------------------------------------------------------------


async def test_launcher_without_network_takes_nothing_from_the_one_that_has_it(tmp_path: Path) -> None:
    here, there = Network(), Network()
    (tmp_path / "there").mkdir()
    async with (
        shared_store() as store,
        launched(tmp_path, of(*MANY[:30]), scanner=here, store=store, until=all_idle(30)) as keeper,
    ):
        before = [node.id for node in keeper.idle]
        there.is_ours_down = True
        async with launched(tmp_path / "there", of(*MANY[:30]), scanner=there, store=store, hostname="there"):
            requests = await asyncio.gather(*(keeper.fulfilled("bare") for _ in range(30)))
            assert sorted(node_id for request in requests for node_id in request.nodes) == before


async def test_host_that_fails_at_another_launcher_is_looked_at_by_the_one_that_keeps_it(tmp_path: Path) -> None:
    """Both launchers hand the host out, one keeps its record; when either finds that it is down, it is removed."""
    hosts = Network()
    (tmp_path / "there").mkdir()
    async with (
        shared_store() as store,
        launched(tmp_path, of(ONE), scanner=hosts, store=store, until=all_idle(1)) as keeper,
        launched(tmp_path / "there", of(ONE), scanner=hosts, store=store, hostname="there") as other,
    ):
        await other.until(lambda: len(other.view.launchers) == 2)
        hosts.down.add(ONE)
        asked = [await keeper.ask("bare") for _ in range(4)]
        await keeper.until(lambda: not keeper.nodes())
        await keeper.a_while(400)
        hosts.down.clear()
        for handle in asked:
            request = await handle.finished()
            assert request.state is RequestState.FULFILLED
            await (await keeper.take(request)).give_all_back()


async def test_launcher_that_cannot_reach_a_host_takes_its_free_nodes_out_once(tmp_path: Path) -> None:
    """The launcher that keeps the records then looks at the host and offers it again, and the other leaves it alone."""
    here, there = Network(), Network()
    there.down.add(ONE)
    (tmp_path / "there").mkdir()
    content = of(ONE, max_parallel_jobs=2)
    with capture_logs() as logs:
        async with (
            shared_store() as store,
            launched(tmp_path, content, scanner=here, store=store, until=all_idle(2)) as keeper,
            launched(tmp_path / "there", content, scanner=there, store=store, hostname="there") as other,
        ):
            before = {node.id for node in keeper.idle}
            watch = other.launcher.providers["lab"].breakers.hosts
            assert watch is not None
            await other.a_while(10)
            assert watch.not_handed_out(machine_of(keeper.idle[0]))
            await keeper.until(lambda: before.isdisjoint(node.id for node in keeper.idle) and len(keeper.idle) == 2)
            again = keeper.idle
            await keeper.a_while(2000)
            assert keeper.idle == again
    assert told(logs, "machine_quarantined") == [("machine_quarantined", ONE)]
    assert len(told(logs, "machine_deregistered")) == 2


async def _compared(folder: Path, monkeypatch: pytest.MonkeyPatch, hosts_there: int) -> int:
    """Return how many slots and nodes are examined for a host that goes away and comes back, among so many."""
    hosts, names, looked_at = Network(), MANY[:hosts_there], 0

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any) -> Any:
            nonlocal looked_at
            looked_at += 1
            return work(*args)

        return count

    folder.mkdir()
    content = config(lab(machine(ONE, "one"), *(machine(name) for name in names if name != ONE)))
    async with launched(folder, content, scanner=hosts, until=all_idle(hosts_there)) as site:
        await site.a_while(10)
        with monkeypatch.context() as patch:
            patch.setattr(Inventory, "_compare_slot", counted(Inventory._compare_slot))
            patch.setattr(IdleIndex, "look_again", counted(IdleIndex.look_again))
            patch.setattr(HostWatch, "_is_hidden", counted(HostWatch._is_hidden))
            hosts.down.add(ONE)
            waiting = await site.ask("one")
            await site.until(lambda: len(site.nodes()) == hosts_there - 1)
            hosts.down.clear()
            assert (await waiting.finished()).state is RequestState.FULFILLED
    return looked_at


async def test_one_host_among_many_costs_no_more_than_among_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = await _compared(tmp_path / "few", monkeypatch, 5)
    assert 0 < few == await _compared(tmp_path / "many", monkeypatch, 100)


async def test_who_takes_over_looks_at_every_host_and_knows_as_much(tmp_path: Path) -> None:
    hosts = Network()
    hosts.down.add(ONE)
    (tmp_path / "there").mkdir()
    async with shared_store() as store:
        async with launched(tmp_path, of(ONE, TWO), scanner=hosts, store=store, until=all_idle(1)):
            pass
        async with launched(tmp_path / "there", of(ONE, TWO), scanner=hosts, store=store, hostname="there") as heir:
            await heir.take(await heir.fulfilled("bare"))
            waiting = await heir.ask("bare")
            await heir.a_while(60)
            assert [each["kind"] for each in reasons(heir, waiting)] == ["NoFreeMachine", "MachineAway"]
            hosts.down.clear()
            assert (await waiting.finished()).state is RequestState.FULFILLED
