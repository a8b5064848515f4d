"""A running launcher takes another configuration: only what changed is touched, and nothing under way is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.config.changes import Changes
from nodelaunch.engine.fleet.presence import RETURN_GRACE_S
from nodelaunch.errors import ProviderUnavailableError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol import paths
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import CONFIG, LoopClock, Running, running, written

pytestmark = pytest.mark.looptime

SECOND_POOL = """
      - name: second
        max-servers: 2
        labels: [{name: rare, cloud-image: image, min-ram: 8192}]
"""
LAB = """
  - name: lab
    driver: test
    pools: [{name: rack, max-servers: 3, labels: [bare]}]
"""
WITH_LABELS = CONFIG.replace("labels: [{{name: small", "labels: [{{name: rare}}, {{name: bare}}, {{name: small", 1)


async def reload(
    site: Running, folder: Path, more: str = "", *, config: str = WITH_LABELS, **values: object
) -> Changes:
    return await site.launcher.reload(load_config(written(folder, config, more=more, **values)), grace_s=30)


def pool_ids(site: Running) -> set[str]:
    return {seen.record.id or "" for seen in site.view.pools.values()}


async def test_unchanged_configuration_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS) as site:
        driver, ids = site.launcher.providers["cloud"].driver, pool_ids(site)
        assert not await reload(site, tmp_path)
        assert site.launcher.providers["cloud"].driver is driver
        assert pool_ids(site) == ids


async def test_pool_is_added_and_serves_while_the_other_keeps_its_registration(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS) as site:
        ids = pool_ids(site)
        waiting = await site.client.submit(["small"])
        changes = await reload(site, tmp_path, SECOND_POOL)
        assert (changes.pools_added, changes.changed) == (("cloud/second",), ("cloud",))
        assert (await site.finished("rare")).state is RequestState.FULFILLED
        assert (await waiting.finished()).state is RequestState.FULFILLED
        assert ids < pool_ids(site)


async def test_pool_taken_out_finishes_what_it_works_on(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, more=SECOND_POOL, boot_time=20.0) as site:
        handle = await site.client.submit(["rare"])
        await site.until(lambda: site.view.requests[handle.id].record.state is RequestState.PENDING)
        await reload(site, tmp_path, boot_time=20.0)
        await site.until(lambda: len(site.view.pools) == 1)
        request = await handle.finished()
        assert request.state is RequestState.FULFILLED
        async with site.client.hold(request):
            pass
        await site.until_empty()
        assert (await site.finished("rare")).state is RequestState.FAILED


async def test_pool_taken_out_hands_back_what_takes_too_long(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, more=SECOND_POOL, boot_time=200.0) as site:
        handle = await site.client.submit(["rare"])
        await site.until(lambda: bool(site.cloud.servers()))
        await reload(site, tmp_path, boot_time=200.0)
        assert (await handle.finished()).state is RequestState.FAILED  # no pool offers it any more
        await site.until(lambda: not site.view.nodes)
        assert site.cloud.servers() == []


async def test_pool_taken_out_on_purpose_is_not_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, more=SECOND_POOL) as site:
        await site.until(lambda: ("cloud", "second") in site.view.known_pools)
        await reload(site, tmp_path)
        asked_at = site.cloud.now
        assert (await site.finished("rare")).state is RequestState.FAILED
        assert site.cloud.now - asked_at < RETURN_GRACE_S


async def test_idle_node_of_a_pool_taken_out_is_deleted(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, more=SECOND_POOL) as site:
        await (await site.client.submit(["rare"])).finished()
        (request,) = site.view.requests.values()
        await site.store.delete(request.path)
        await site.until(lambda: any(node.is_idle for node in site.nodes()))
        await reload(site, tmp_path)
        await site.until_empty()
        assert site.cloud.servers() == []


async def test_provider_taken_out_deletes_its_nodes_as_they_come_back(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, more=LAB) as site:
        request = await site.finished("bare")
        async with site.client.hold(request):
            changes = await reload(site, tmp_path)
            assert (changes.removed, changes.pools_removed) == (("lab",), ("lab/rack",))
            await site.until(lambda: len(site.view.pools) == 1)
            assert "lab" in site.launcher.providers
        await site.until(lambda: not site.view.nodes and "lab" not in site.launcher.providers)


async def test_idle_nodes_of_what_is_taken_out_are_deleted_as_soon_as_its_requests_are_done(tmp_path: Path) -> None:
    """The nodes are deleted before the next round of the sweeper."""
    async with running(tmp_path, WITH_LABELS, more=SECOND_POOL + LAB) as site:
        for label in ("rare", "bare"):
            request = await site.finished(label)
            await site.store.delete(paths.request(request.id))
        await site.until(lambda: [node.is_idle for node in site.nodes()] == [True, True])
        began = asyncio.get_running_loop().time()
        await reload(site, tmp_path)
        await site.until_empty()
        assert asyncio.get_running_loop().time() - began < 2.0


async def test_launcher_ends_while_a_provider_taken_out_has_nodes_in_use(tmp_path: Path) -> None:
    store = EmbeddedStore(None, clock=LoopClock().now)
    both, one = written(tmp_path, WITH_LABELS, more=LAB, name="both.yaml"), written(tmp_path, WITH_LABELS)
    async with (
        Launcher(load_config(both), store=store, clock=LoopClock()) as launcher,
        store.connect() as session,
        NodeClient(session, clock=LoopClock()) as client,
    ):
        running = asyncio.ensure_future(launcher.run())
        request = await (await client.submit(["bare"])).finished()
        async with client.hold(request):
            await launcher.reload(load_config(one))
            await launcher.drain(1.0)
            async with asyncio.timeout(60):
                await running


async def test_provider_comes_back_while_it_is_being_taken_out(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, more=LAB) as site:
        request = await site.finished("bare")
        async with site.client.hold(request):
            await reload(site, tmp_path)
            changes = await reload(site, tmp_path, LAB)
            assert changes.added == ("lab",)
            assert (await site.finished("bare")).state is RequestState.FULFILLED
        await site.until(lambda: len(site.nodes(NodeState.READY)) == 1 and len(site.nodes()) == 1)
        assert "lab" in site.launcher.providers


async def test_lower_limit_is_in_force_at_once_and_impossible_requests_are_declined(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, max_servers=2) as site:
        held = await site.finished("small", "small")
        waiting = await site.client.submit(["small", "small"])
        await site.until(lambda: any(seen.record.paused for seen in site.view.pools.values()))
        await reload(site, tmp_path, max_servers=1)
        assert (await waiting.finished()).state is RequestState.FAILED
        async with site.client.hold(held) as nodes:
            assert len(nodes) == 2


async def test_accepted_request_that_waits_for_what_can_t_come_is_declined(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, max_servers=2) as site:
        site.cloud.fail("create", times=50, kind="quota")
        waiting = await site.client.submit(["small", "small"])
        await site.until(lambda: any(seen.record.paused for seen in site.view.pools.values()))
        await reload(site, tmp_path, max_servers=1)
        assert (await waiting.finished()).state is RequestState.FAILED
        await site.until(lambda: not site.view.nodes)


async def test_launch_under_way_ends_with_the_driver_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, WITH_LABELS, boot_time=20.0) as site:
        driver = site.launcher.providers["cloud"].driver
        closed = asyncio.Event()
        aclose = driver.aclose

        async def close() -> None:
            closed.set()
            await aclose()

        monkeypatch.setattr(driver, "aclose", close)
        handle = await site.client.submit(["small"])
        await site.until(lambda: bool(site.cloud.servers()))
        await reload(site, tmp_path, SECOND_POOL, boot_time=0.0)
        assert site.launcher.providers["cloud"].driver is not driver
        assert not closed.is_set()
        assert (await handle.finished()).state is RequestState.FULFILLED
        await closed.wait()


async def test_driver_that_can_t_be_made_leaves_the_old_one_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, WITH_LABELS) as site:

        def refuse(_config: object) -> None:
            raise ProviderUnavailableError("no such cloud")

        monkeypatch.setattr(site.launcher, "_open_driver", refuse)
        object.__setattr__(site.launcher._parts.site, "open_driver", refuse)
        await reload(site, tmp_path, SECOND_POOL)
        assert (await site.finished("small")).state is RequestState.FULFILLED
        assert len(site.view.pools) == 1


async def test_min_ready_and_ages_follow_the_configuration(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS) as site:
        await reload(site, tmp_path, min_ready=2)
        await site.until(lambda: sum(node.is_idle for node in site.nodes()) == 2)
        changes = await reload(site, tmp_path, min_ready=0)
        assert changes.settings == ("labels",)
        asked = [
            seen.record for seen in site.view.requests.values() if seen.record.requestor == paths.MIN_READY_REQUESTOR
        ]
        assert {request.state for request in asked} <= {RequestState.FULFILLED}
        await site.until(lambda: not site.view.requests)


async def test_what_takes_a_restart_is_named(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS) as site:
        changes = await reload(site, tmp_path, config=WITH_LABELS.replace("webapp: {{port: 0", "webapp: {{port: 1"))
        assert changes.needs_restart == ("webapp",)


FAKE_LAB = LAB.replace("driver: test", "driver: fake").replace(
    "labels: [bare]", "labels: [{name: bare, cloud-image: i, min-ram: 1}]"
).replace("    pools:", "    cloud-images: [{name: i}]\n    pools:")  # fmt: skip


@pytest.mark.parametrize("call", ["create_instance", "wait_until_active", "quota_limits", "aclose"])
async def test_driver_that_does_not_let_go_holds_up_no_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The driver is replaced, although it neither ends its work nor reacts to a cancellation."""
    released, begun = asyncio.Event(), asyncio.Event()

    async def stuck(*_: object) -> None:
        begun.set()
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()

    async with running(tmp_path, WITH_LABELS, more=LAB) as site:
        lab = site.launcher.providers["lab"]
        monkeypatch.setattr(lab.driver, call, stuck)
        try:
            if call == "quota_limits":
                lab.invalidate()
            elif call != "aclose":
                await site.client.submit(["bare"])
            if call != "aclose":
                await begun.wait()
            async with asyncio.timeout(300):
                assert (await reload(site, tmp_path, FAKE_LAB)).replaced == ("lab",)
                assert (await site.finished("small")).state is RequestState.FULFILLED
                assert (await site.finished("bare")).state is RequestState.FULFILLED
        finally:
            released.set()


async def test_provider_with_another_driver_starts_anew(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, more=LAB) as site:
        assert (await site.finished("bare")).state is RequestState.FULFILLED
        changes = await reload(site, tmp_path, FAKE_LAB)
        assert changes.replaced == ("lab",)
        assert (await site.finished("bare")).state is RequestState.FULFILLED
        assert any(node.external_id for node in site.nodes() if node.provider == "lab")
