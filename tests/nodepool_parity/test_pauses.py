"""Pauses, drains and resumes by operators while launchers run: on a virtual clock, with whole launchers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.client.nodes import NodeClient, RequestHandle
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.engine.cleanup import debris
from nodelaunch.engine.view import ClusterView
from nodelaunch.operations.pauses import Pauser, drained
from nodelaunch.protocol.pauses import Target
from nodelaunch.protocol.states import NodeState, RequestState
from support.launchers import LoopClock
from support.sites import Hosts, Site, config, is_paused, lab, launched, machine, pool, provider, shared_store

pytestmark = pytest.mark.looptime

CLOUD = Target.provider("cloud")
MAIN = Target.pool("cloud", "main")
HERE, THERE = Target.launcher("here"), Target.launcher("there")


def one_cloud(boot_time: float = 1.0) -> DriverRegistry:
    """Return drivers of the same cloud for all launchers."""
    cloud = FakeCloud()
    for name, value in {"boot-time": boot_time, "delete-time": 0.5}.items():
        cloud.set(name, value)
    return DriverRegistry([DriverPlugin("fake", FakeProvider, lambda conf, ctx: FakeDriver(conf, ctx, cloud=cloud))])


async def pause(site: Site, target: Target = CLOUD, *, drains: bool = False, reason: str | None = None) -> None:
    pauser = Pauser(site.client.store, LoopClock())
    await pauser.pause(target, by="ann@desk", reason=reason, drains=drains)
    await site.until(lambda: target in site.view.pauses and site.view.pauses[target].record.drains is drains)


async def resume(site: Site, target: Target = CLOUD) -> None:
    assert await Pauser(site.client.store).resume(target)


class NoNodes:
    """Hides records of nodes while it is entered, as when a launch has started and its first record is not written
    yet.
    """

    def __init__(self, view: ClusterView) -> None:
        self._view = view

    def __enter__(self) -> None:
        self._view.nodes_of = lambda _provider: []  # type: ignore[method-assign]

    def __exit__(self, *_exc: object) -> None:
        del self._view.nodes_of


def kinds(site: Site, handle: RequestHandle, where: tuple[str, str] = ("cloud", "main")) -> tuple[str, list[str]]:
    """Return the request's status at a pool, and the kinds of reasons."""
    (standing,) = [s for s in site.launcher.scheduler.explainer.explain(handle.id) if (s.provider, s.pool) == where]
    return standing.status, [type(reason).__name__ for reason in standing.reasons]


@pytest.mark.parametrize("target", [CLOUD, MAIN, HERE])
async def test_request_waits_for_what_is_paused_and_says_so(tmp_path: Path, target: Target) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        await pause(site, target, reason="new switches")
        handle = await site.ask("small")
        await site.a_while()
        assert site.request(handle).state is RequestState.REQUESTED
        assert site.request(handle).declined_by == ()
        assert site.creates() == []
        assert kinds(site, handle) == ("deferred", ["PoolPaused"])
        (standing,) = site.launcher.scheduler.explainer.explain(handle.id)
        assert str(standing.reasons[0]).startswith(f"{target} is paused since 2023-11-14")
        assert str(standing.reasons[0]).endswith("by ann@desk: new switches")
        assert standing.reasons[0].remedy == f"nodelaunch resume {target.explicit}"
        assert is_paused(site)
        assert [pause.reason for pause in site.launcher.pauses["cloud", "main"]] == ["new switches"]
        await resume(site, target)
        assert (await handle.finished()).state is RequestState.FULFILLED
        await site.until(lambda: not is_paused(site))
        assert site.launcher.pauses == {}


async def test_another_provider_serves_although_it_would_come_second(tmp_path: Path) -> None:
    clouds = config(provider(pool("small"), priority=1), provider(pool("small"), name="other", priority=2))
    async with launched(tmp_path, clouds) as site:
        await pause(site)
        assert [node.provider for node in await site.got("small")] == ["other"]
        await resume(site)
        await site.until(lambda: not is_paused(site))
        assert [node.provider for node in await site.got("small")] == ["cloud"]


async def test_request_that_waits_goes_elsewhere_once_its_pool_is_paused(tmp_path: Path) -> None:
    """The request had the first place in a full pool, which reserved capacity for it."""
    clouds = config(provider(pool("small", max_servers=1)), provider(pool("small", max_servers=1), name="other"))
    async with launched(tmp_path, clouds) as site:
        first, second = await site.take(await site.fulfilled("small")), await site.take(await site.fulfilled("small"))
        waiting = await site.ask("small")
        await site.until(lambda: is_paused(site, [("cloud", "main"), ("other", "main")]))
        await pause(site)
        held = {next(iter(taken.nodes.values()))[0].provider: taken for taken in (first, second)}
        await held["cloud"].give_all_back()
        await site.a_while()
        assert site.request(waiting).state is RequestState.REQUESTED
        await held["other"].give_all_back()
        assert [node.provider for node in site.nodes_of(await waiting.finished())] == ["other"]


async def test_work_under_way_is_finished(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small"), boot_time=20))) as site:
        handle = await site.ask("small", "small")
        await site.until(lambda: len(site.cloud.servers()) == 2)
        await pause(site)
        assert (await handle.finished()).state is RequestState.FULFILLED
        assert len(site.creates()) == 2


async def test_request_under_way_that_only_waits_for_room_is_handed_back(tmp_path: Path) -> None:
    clouds = config(provider(pool("small")), provider(pool("small"), name="other", priority=200))
    async with launched(tmp_path, clouds) as site:
        site.cloud.set("max-servers", 0)  # the cloud's own quota, of which the launcher does not know yet
        handle = await site.ask("small")
        await site.until(lambda: bool(site.launcher.scheduler.queue.waiters))
        await pause(site)
        request = await handle.finished()
        assert [node.provider for node in site.nodes_of(request)] == ["other"]


async def test_what_nobody_offers_is_failed_all_the_same(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        await pause(site)
        await site.failed("big")


async def test_request_that_every_other_pool_declined_waits(tmp_path: Path) -> None:
    clouds = config(provider(pool("small"), name="cloud"), provider(pool("small", max_servers=0), name="other"))
    async with launched(tmp_path, clouds) as site:
        await pause(site)
        handle = await site.ask("small")
        await site.a_while()
        assert site.request(handle).state is RequestState.REQUESTED
        await resume(site)
        assert (await handle.finished()).state is RequestState.FULFILLED


async def test_request_that_names_a_paused_provider_goes_elsewhere(tmp_path: Path) -> None:
    """Zuul names the provider of a job's nodes for the jobs that this job waits for. Would they wait for the provider,
    its nodes would never come back."""
    clouds = config(provider(pool("small")), provider(pool("small"), name="other"))
    async with launched(tmp_path, clouds) as site:
        await pause(site)
        assert [node.provider for node in await site.got("small", provider="cloud")] == ["other"]


async def test_request_that_names_a_paused_provider_waits_where_no_other_offers_it(tmp_path: Path) -> None:
    clouds = config(provider(pool("small")), provider(pool("big"), name="other"))
    async with launched(tmp_path, clouds) as site:
        await pause(site)
        handle = await site.ask("small", provider="cloud")
        await site.a_while()
        assert site.request(handle).state is RequestState.REQUESTED
        assert kinds(site, handle, ("other", "main")) == ("deferred", ["ProviderWanted"])


async def test_nodes_are_not_kept_ready_where_it_is_paused(tmp_path: Path) -> None:
    content = config(provider(pool("small")), labels={"small": {"min-ready": 2}})
    async with launched(tmp_path, content) as site:
        await site.until_idle(2)
        await pause(site)
        (one, two) = site.idle
        await site.set_node(one, NodeState.DELETING)
        await site.until(lambda: [node.id for node in site.idle] == [two.id])
        await site.a_while()
        assert [node.id for node in site.idle] == [two.id]
        await resume(site)
        await site.until_idle(2)


async def test_old_nodes_and_used_ones_are_deleted_meanwhile(tmp_path: Path) -> None:
    content = config(provider(pool("small")), labels={"small": {"min-ready": 1, "max-ready-age": 300}})
    async with launched(tmp_path, content) as site:
        await site.until_idle(1)
        taken = await site.take(await site.fulfilled("small"))
        await site.until(lambda: len(site.idle) == 1)
        await pause(site)
        await taken.give_all_back()
        await site.a_while(600)
        assert site.nodes() == site.cloud.servers() == []


# -- draining -------------------------------------------------------------------------------------------------------


async def test_drain_deletes_idle_nodes_and_waits_for_those_in_use(tmp_path: Path) -> None:
    content = config(provider(pool("small")), labels={"small": {"min-ready": 2}})
    async with launched(tmp_path, content) as site:
        await site.until_idle(2)
        taken = await site.take(await site.fulfilled("small"))
        await site.until(lambda: len(site.idle) == 2)
        told: list[str] = []
        await pause(site, drains=True)
        waiting = asyncio.ensure_future(
            drained(site.client.store, site.view, CLOUD, report=lambda left: told.append(str(left)))
        )
        await site.until(lambda: not site.idle and len(site.nodes()) == 1)
        await site.a_while()
        assert not waiting.done()
        await taken.give_all_back()
        await waiting
        assert site.cloud.servers() == []
        assert told[0].startswith("3 nodes left")
        assert "1 node left: 1 in-use" in told
        await resume(site)
        await site.until_idle(2)


async def test_drain_waits_for_work_that_has_no_node_yet(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        site.cloud.set("create-time", 20.0)
        handle = await site.ask("small")
        await site.until(lambda: bool(site.launcher.pools["cloud", "main"].handlers))
        told: list[str] = []
        with NoNodes(site.view):
            await Pauser(site.client.store, LoopClock()).pause(CLOUD, by="ann", drains=True)
            waiting = asyncio.ensure_future(
                drained(site.client.store, site.view, CLOUD, report=lambda left: told.append(str(left)))
            )
            await site.until(lambda: bool(told))
            assert told[-1].startswith("1 request under way")
            await handle.finished()
            await waiting


async def test_paused_pool_keeps_its_idle_nodes_until_it_drains(tmp_path: Path) -> None:
    content = config(provider(pool("small")), labels={"small": {"min-ready": 1}})
    async with launched(tmp_path, content) as site:
        await site.until_idle(1)
        await pause(site, MAIN)
        await site.a_while()
        assert len(site.idle) == 1
        await pause(site, MAIN, drains=True)
        await site.until(lambda: not site.nodes())
        await pause(site, MAIN)  # merely paused again
        await site.a_while()
        assert not site.nodes()


async def test_machines_of_a_drained_provider_are_taken_out_and_come_back(tmp_path: Path) -> None:
    async with launched(tmp_path, config(lab(machine("one"), machine("two"))), scanner=Hosts()) as site:
        await site.until(lambda: len(site.idle) == 2)
        taken = await site.take(await site.fulfilled("bare"))
        await pause(site, Target.provider("lab"), drains=True)
        await site.until(lambda: len(site.nodes()) == 1)
        await taken.give_all_back()
        await site.until(lambda: not site.nodes())
        await site.a_while()
        assert not site.nodes()
        await resume(site, Target.provider("lab"))
        await site.until(lambda: len(site.idle) == 2)


async def test_launch_that_broke_off_is_deleted_while_its_provider_drains(tmp_path: Path) -> None:
    """The launcher ends in the middle of it; the next one finds the provider drained, and the request still there."""
    drivers = one_cloud(boot_time=500.0)
    content = config(provider(pool("small")))
    async with shared_store() as store, store.connect() as user, NodeClient(user, clock=LoopClock()) as client:
        async with launched(tmp_path, content, store=store, drivers=drivers) as site:
            handle = await client.submit(["small"])
            await site.until(lambda: len(site.cloud.servers()) == 1)
        await Pauser(user).pause(CLOUD, by="ann@desk", drains=True)
        async with launched(tmp_path, content, store=store, drivers=drivers) as site:
            assert len(site.cloud.servers()) == len(site.nodes()) == 1
            await drained(site.client.store, site.view, CLOUD, report=lambda _left: None)
            assert site.cloud.servers() == []
            assert site.request(handle).state is RequestState.REQUESTED


# -- several launchers ----------------------------------------------------------------------------------------------


async def test_other_launcher_goes_on_when_one_is_drained(tmp_path: Path) -> None:
    """Idle nodes stay: the other one hands them out."""
    drivers = one_cloud()
    content = config(provider(pool("small")), labels={"small": {"min-ready": 1}})
    async with (
        shared_store() as store,
        launched(tmp_path, content, store=store, drivers=drivers) as here,
        launched(tmp_path, content, store=store, hostname="there", drivers=drivers) as there,
    ):
        await here.until_idle(1)
        await pause(here, HERE, drains=True)
        before = here.idle
        await here.a_while()
        assert here.idle == before
        for _ in range(6):
            (node,) = await here.got("small")
            assert (node.launcher or "").startswith("there-") or node.id == before[0].id
        assert here.launcher.pauses
        assert not there.launcher.pauses
        await pause(here, THERE, drains=True)
        await here.until(lambda: not here.idle)


async def test_pause_outlives_launchers_and_is_logged_once_by_each(tmp_path: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    content = config(provider(pool("small")))
    async with shared_store() as store:
        async with launched(tmp_path, content, store=store) as site:
            with capture_logs() as logs:
                await pause(site, reason="disks")
                await pause(site, Target.provider("unknown"))
                await site.a_while()
            assert [entry for entry in logs if entry["event"].endswith("by_operator")] == [
                {
                    "event": "paused_by_operator", "log_level": "info", "target": "provider cloud", "by": "ann@desk",
                    "reason": "disks",
                }
            ]  # fmt: skip
        with capture_logs() as logs:
            async with launched(tmp_path, content, store=store) as site:
                await site.until(lambda: is_paused(site))
                handle = await site.ask("small")
                await site.a_while()
                assert site.request(handle).state is RequestState.REQUESTED
                await resume(site)
                assert (await handle.finished()).state is RequestState.FULFILLED
        events = [entry["event"] for entry in logs if entry["event"].endswith("by_operator")]
        assert events == ["paused_by_operator", "resumed_by_operator"]


async def test_pause_of_a_process_that_is_no_more_goes_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debris, "GONE_PROCESS_S", 600.0)
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        (presence,) = site.view.presences.values()
        kept = [Target.launcher(presence.record.id), Target.launcher("nl01"), Target.provider("f" * 32)]
        for target in (*kept, Target.launcher("f" * 32)):
            await pause(site, target)
        await site.a_while(500)
        assert len(site.view.pauses) == 4
        await site.a_while(200)
        assert sorted(site.view.pauses, key=str) == sorted(kept, key=str)


async def test_launcher_can_be_paused_by_its_id(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        (presence,) = site.view.presences.values()
        await pause(site, Target.launcher(presence.record.id))
        handle = await site.ask("small")
        await site.a_while()
        assert kinds(site, handle) == ("deferred", ["PoolPaused"])
