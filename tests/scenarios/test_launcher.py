"""Whole launchers on a virtual clock: store in memory, cloud in memory, nothing waits for real."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
import structlog

from nodelaunch.client.nodes import NodeClient
from nodelaunch.drivers.fake.controls import RATE_LIMIT_RETRY_S
from nodelaunch.engine.cleanup.deletion import delete_node
from nodelaunch.engine.cleanup.sweeper import STALE_LOCK_S
from nodelaunch.engine.serve.handler import RequestHandler
from nodelaunch.engine.service import ProviderService
from nodelaunch.engine.supply.minready import REQUEST_KEPT_S
from nodelaunch.errors import SessionLostError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol import paths
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.verdicts import Defer
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import CONFIG, DEFAULTS, LoopClock, running

pytestmark = pytest.mark.looptime


async def test_job_gets_its_nodes_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        nodes = await site.job("big", "small", "big")
        assert [node.type for node in nodes] == [("big",), ("small",), ("big",)]
        assert {node.state for node in nodes} == {NodeState.IN_USE}
        await site.until_empty()
        assert site.cloud.servers() == []
        assert await site.store.children(paths.REQUEST_LOCKS) == []


async def test_capacity_is_never_exceeded_and_everybody_is_served(tmp_path: Path) -> None:
    async with running(tmp_path, max_servers=4) as site:
        jobs = [site.job(*["small"] * (1 + n % 3)) for n in range(20)]
        await asyncio.gather(*jobs)
        await site.until_empty()
        there = most = 0
        for entry in site.cloud.log():
            there += {"create": 1, "gone": -1}.get(entry["what"], 0)
            most = max(most, there)
        assert most <= 4
        assert there == 0


async def test_waiting_pool_says_that_it_is_paused(tmp_path: Path) -> None:
    async with running(tmp_path, max_servers=1) as site:
        first = await site.finished("small")
        waiting = await site.client.submit(["small"])
        await site.until(lambda: any(seen.record.paused for seen in site.view.pools.values()))
        assert isinstance(site.launcher.scheduler.explainer.verdict(waiting.id, ("cloud", "main")), Defer)
        assert site.view.requests[waiting.id].record.state is RequestState.REQUESTED
        async with site.client.hold(first):
            pass
        assert (await waiting.finished()).state is RequestState.FULFILLED
        await site.until(lambda: not any(seen.record.paused for seen in site.view.pools.values()))


async def test_failed_launch_is_retried_under_the_same_node(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("create", times=1)
        (node,) = await site.job("small")
        assert node.id == "0000000000"
        await site.until_empty()


async def test_launches_that_fail_for_good_fail_the_request_and_leave_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("boot", times=4)
        request = await site.finished("small", "small")
        assert request.state is RequestState.FAILED
        assert request.declined_by == (site.launcher.pools["cloud", "main"].ctx.pool_id,)
        assert request.nodes == ()
        await site.until(lambda: not site.view.nodes)
        assert site.cloud.servers() == []


async def test_instance_left_by_a_failed_create_is_deleted(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("create", times=1, leave=True)
        await site.job("small")
        await site.until_empty()
        assert site.cloud.servers() == []


async def test_refused_quota_aborts_the_node_and_is_waited_out(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("create", kind="quota", times=3)
        states: list[RequestState] = []
        handle = await site.client.submit(["small"])
        request = await handle.finished(lambda seen: states.append(seen.state))
        assert request.state is RequestState.FULFILLED
        assert request.declined_by == ()
        assert states[-2:] == [RequestState.PENDING, RequestState.FULFILLED]
        assert request.nodes == ("0000000003",)


async def test_provider_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("create", kind="unavailable", times=5)
        assert len(await site.job("small")) == 1
        await site.until_empty()


async def test_cloud_that_is_asked_too_often_is_asked_again_when_it_says_so(tmp_path: Path) -> None:
    """On a virtual clock: the retry comes exactly at the given time, and retries are not limited."""
    async with running(tmp_path) as site:
        begun = asyncio.get_running_loop().time()
        site.cloud.fail("create", kind="rate-limit", times=10)
        assert len(await site.job("small")) == 1
        refused = [entry["at"] for entry in site.cloud.log() if entry["what"] == "refused"]
        assert [round(at - refused[0], 3) for at in refused] == [RATE_LIMIT_RETRY_S * n for n in range(10)]
        assert asyncio.get_running_loop().time() - begun == pytest.approx(10 * RATE_LIMIT_RETRY_S, abs=1)
        await site.until_empty()


async def test_delete_that_fails_is_tried_again(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("delete", times=3)
        await site.job("small")
        await site.until_empty()
        assert site.cloud.servers() == []


async def test_cancelled_request_ends_its_launches(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=250.0) as site:
        handle = await site.client.submit(["small", "small"])
        await site.until(lambda: len(site.nodes(NodeState.BUILDING)) == 2)
        await handle.cancel()
        await site.until_empty()
        assert asyncio.get_running_loop().time() < 100
        assert site.cloud.servers() == []


async def test_lost_session_ends_the_work_and_the_next_one_goes_on_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=20.0) as site:
        handle = await site.client.submit(["small", "big"])
        await site.until(lambda: len(site.nodes(NodeState.BUILDING)) == 2)
        begun = {node.id for node in site.nodes()}
        await site.store.expire_session()
        request = await handle.finished()
        assert request.state is RequestState.FULFILLED
        assert begun == set(request.nodes)
        assert len([entry for entry in site.cloud.log() if entry["what"] == "create"]) == 2
        await handle.cancel()
        await site.until(lambda: len(site.view.nodes) == 2)
        assert len(site.cloud.servers()) == 2


async def test_launch_that_broke_off_is_gone_on_with_where_there_is_no_room_for_another(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=20.0, max_servers=1) as site:
        first = await site.client.submit(["small"])
        await site.until(lambda: len(site.nodes(NodeState.BUILDING)) == 1)
        await site.client.submit(["small"])
        await site.store.expire_session()
        request = await first.finished()
        assert request.state is RequestState.FULFILLED
        assert len([entry for entry in site.cloud.log() if entry["what"] == "create"]) == 1


async def test_launch_that_broke_off_ends_with_its_request(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=200.0, max_servers=2) as site:
        handle = await site.client.submit(["small", "small"])
        await site.until(lambda: len(site.cloud.servers()) == 2)
        await site.store.expire_session()
        await handle.cancel()
        await site.until_empty()
        assert asyncio.get_running_loop().time() < 100
        assert site.cloud.servers() == []


async def test_instance_whose_id_was_never_recorded_is_found_again(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=5.0) as site:
        site.cloud.update({"create-time": 10.0})
        handle = await site.client.submit(["small"])
        await site.until(lambda: len(site.cloud.servers()) == 1)
        assert [node.external_id for node in site.nodes()] == [None]
        await site.store.expire_session()
        request = await handle.finished()
        assert request.state is RequestState.FULFILLED
        assert len([entry for entry in site.cloud.log() if entry["what"] == "create"]) == 1


async def test_instance_that_its_first_launcher_gave_up_is_made_anew_and_spends_no_retry(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=20.0, delete_time=30.0) as site:
        handle = await site.client.submit(["small"])
        await site.until(lambda: [node.external_id is not None for node in site.nodes()] == [True])
        (node,) = site.nodes()
        site.cloud.fail("boot", times=1)  # the launch that is tried twice may not fail once more
        site.cloud.delete(node.external_id, delete_time=30.0)
        await site.store.expire_session()
        request = await handle.finished()
        assert (request.state, request.nodes) == (RequestState.FULFILLED, (node.id,))
        assert site.cloud.peak()["instances"] == 1


async def test_a_node_kept_ready_is_free_before_its_request_goes(tmp_path: Path) -> None:
    """Zuul up to 12.1 keeps a request in its cache for ever that goes while the change before is read."""
    async with running(tmp_path, min_ready=1) as site:
        loop = asyncio.get_running_loop()
        await site.until(lambda: any(node.is_idle for node in site.nodes()))
        free_since = loop.time()
        assert [seen.record.state for seen in site.view.requests.values()] == [RequestState.FULFILLED]
        await site.until(lambda: not site.view.requests)
        assert loop.time() - free_since >= REQUEST_KEPT_S - 0.1
        await asyncio.sleep(60.0)
        assert len(site.nodes()) == 1


async def test_what_worked_on_a_request_is_freed_without_a_search_for_cycles(tmp_path: Path) -> None:
    """Python's garbage collector rarely runs a full collection in a launcher, since it would have to search many
    objects.
    """
    gc.collect()
    gc.disable()
    try:
        async with running(tmp_path) as site:
            for _ in range(3):
                handle = await site.client.submit(["small"])
                await handle.finished()
                await handle.cancel()
            await site.until(lambda: not site.view.requests)
            await asyncio.sleep(1.0)
            assert [each for each in gc.get_objects() if isinstance(each, RequestHandler)] == []
    finally:
        gc.enable()


async def test_min_ready_nodes_are_kept_and_made_anew(tmp_path: Path) -> None:
    async with running(tmp_path, min_ready=2) as site:
        await site.until(lambda: len([node for node in site.nodes() if node.is_idle]) == 2)
        await site.until(lambda: not site.view.requests)
        before = {node.id for node in site.nodes()}
        (node,) = await site.job("small")
        assert node.id in before
        await site.until(lambda: len([n for n in site.nodes() if n.is_idle]) == 2 and not site.view.requests)
        assert node.id not in site.view.nodes


async def test_idle_node_gives_way_to_a_request_that_needs_its_room(tmp_path: Path) -> None:
    async with running(tmp_path, min_ready=1, max_servers=1) as site:
        await site.until(lambda: [node.is_idle for node in site.nodes()] == [True])
        (node,) = await site.job("big")
        assert node.type == ("big",)


async def test_old_ready_node_is_deleted(tmp_path: Path) -> None:
    async with running(tmp_path, max_ready_age=300) as site:
        request = await site.finished("big")
        handle = site.view.requests[request.id]
        await site.store.delete(handle.path)
        await site.until(lambda: [node.is_idle for node in site.nodes()] == [True])
        await site.until(lambda: not site.view.nodes, within_s=500)
        assert asyncio.get_running_loop().time() > 300


async def test_request_waits_for_the_room_that_a_leaked_instance_takes(tmp_path: Path) -> None:
    """The request is not declined: an instance that is ours, and in no record, is deleted soon."""
    async with running(tmp_path) as site:
        site.cloud.set("max-servers", 2)
        site.cloud.add(metadata={"nodepool_provider_name": "cloud", "nodepool_node_id": "0000009999"})
        await site.launcher.providers["cloud"].refresh()
        async with asyncio.timeout(600):
            assert (await site.finished("small", "small")).state is RequestState.FULFILLED


async def test_leaked_instance_is_deleted_and_a_foreign_one_is_not(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        ours = {"nodepool_provider_name": "cloud", "nodepool_node_id": "0000009999"}
        theirs = {"nodepool_provider_name": "another", "nodepool_node_id": "0000009999"}
        leaked = site.cloud.add(metadata=ours)
        foreign = site.cloud.add(metadata=theirs)
        await site.until(lambda: site.cloud.server(leaked) is None)
        await asyncio.sleep(300)
        assert site.cloud.server(foreign) is not None


async def test_second_instance_of_a_node_is_a_leak(tmp_path: Path) -> None:
    """A create may take effect after its launcher lost its session and another launcher has resumed the launch."""
    async with running(tmp_path) as site:
        await site.finished("small")
        (node,) = site.nodes()
        twin = site.cloud.add(metadata={"nodepool_provider_name": "cloud", "nodepool_node_id": node.id})
        await site.until(lambda: site.cloud.server(twin) is None, within_s=300)
        assert site.cloud.server(node.external_id) is not None


async def test_drain_lets_short_work_finish_and_hands_the_rest_back(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=5.0) as site:
        short = await site.client.submit(["small"])
        await site.until(lambda: len(site.cloud.servers()) == 1)
        site.cloud.set("boot-time", 200)
        long = await site.client.submit(["small"])
        await site.until(lambda: len(site.cloud.servers()) == 2)
        await site.launcher.drain(grace_s=30)
        assert site.view.requests[short.id].record.state is RequestState.FULFILLED
        assert site.view.requests[long.id].record.state is RequestState.REQUESTED
        assert site.view.pools == {}
        assert len(site.cloud.servers()) == 1
        assert "draining" in site.launcher.readiness()


async def test_failing_provider_takes_no_other_down(tmp_path: Path) -> None:
    more = """
  - name: broken
    driver: fake
    cloud-file: /proc/nowhere/cloud.sqlite
    cloud-images: [{name: image}]
    pools: [{name: main, labels: [{name: small, cloud-image: image, min-ram: 8192}]}]
"""
    async with running(tmp_path, more=more) as site:
        assert len(await site.job("small")) == 1
        assert site.launcher.providers["broken"].down is not None
        assert site.launcher.providers["cloud"].down is None


async def test_launches_at_once_are_limited(tmp_path: Path) -> None:
    async with running(tmp_path, max_concurrency=2, boot_time=3.0) as site:
        handles = [await site.client.submit(["small"]) for _ in range(6)]
        most = 0

        def count(_note: object) -> None:
            nonlocal most
            most = max(most, len(site.nodes(NodeState.BUILDING)))

        site.view.subscribe(count)
        await asyncio.gather(*(handle.finished() for handle in handles))
        assert most == 2


async def test_ready_node_of_a_vanished_request_is_freed(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        request = await site.finished("small")
        await site.store.delete(paths.request(request.id))
        await site.until(lambda: [node.is_idle for node in site.nodes()] == [True])
        (node,) = site.nodes()
        assert (node.tenant_name, node.requestor) == (None, None)
        again = await site.job("small")
        assert [reused.id for reused in again] == [node.id]


async def test_orphans_and_debris_are_removed(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        request = await site.finished("small")
        (node,) = site.nodes()
        orphan = node.changed(state=NodeState.INIT, allocated_to=request.id)
        await site.store.create(paths.NEW_NODE, orphan.to_bytes(), sequence=True)
        debris = await site.store.create(paths.NEW_NODE, b"", sequence=True)
        await site.store.ensure(debris.path + "/lock")
        await site.until(lambda: len(site.view.nodes) == 1 and not site.view.unreadable, within_s=1000)
        assert list(site.view.nodes) == [node.id]


async def test_stale_lock_of_a_request_that_is_gone_is_removed(tmp_path: Path) -> None:
    """A lock that another client left: only its age shows that its request will not come."""
    async with running(tmp_path) as site:
        path = f"{paths.REQUEST_LOCKS}/200-0000009999"
        await site.client.store.ensure(path)
        await asyncio.sleep(STALE_LOCK_S - 120)
        assert await site.store.children(paths.REQUEST_LOCKS) == ["200-0000009999"]
        await asyncio.sleep(240)
        assert await site.store.children(paths.REQUEST_LOCKS) == []


async def test_no_pool_declines_before_its_neighbours_are_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label that only the second pool offers must not fail because the first one was there a moment earlier."""
    serve = ProviderService.run

    async def serve_slowly(self: ProviderService) -> None:
        await asyncio.sleep(3.0 if self.name == "lab" else 0.0)
        await serve(self)

    monkeypatch.setattr(ProviderService, "run", serve_slowly)
    more = """
  - name: lab
    driver: test
    pools: [{name: rack, max-servers: 3, labels: [bare]}]
"""
    config = CONFIG.replace("labels: [", "labels: [{{name: bare}}, ")
    path = tmp_path / "nodepool.yaml"
    path.write_text(config.format(**DEFAULTS) + more)
    async with EmbeddedStore(None, clock=LoopClock().now) as store, NodeClient(store, clock=LoopClock()) as client:
        handle = await client.submit(["bare"])
        unknown = await client.submit(["nobody-has-this"])
        async with Launcher(load_config(path), store=store.connect(), clock=LoopClock(), hostname="here") as launcher:
            running_ = asyncio.ensure_future(launcher.run())
            assert (await handle.finished()).state is RequestState.FULFILLED
            assert len((await unknown.finished()).declined_by) == 2
            running_.cancel()
            await asyncio.gather(running_, return_exceptions=True)


async def test_no_timer_stands_between_request_and_nodes(tmp_path: Path) -> None:
    """The virtual clock moves only when something waits for it: with machines that boot at once it stands still."""
    async with running(tmp_path, boot_time=0.0, delete_time=0.0) as site:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(4):
            assert (await site.finished("small", "big")).state is RequestState.FULFILLED
        assert loop.time() == started


async def test_node_that_somebody_else_deleted_first_is_no_trouble(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        assert site.launcher._parts is not None
        queue = site.launcher._parts.sweeper.queue
        limit, queue.limit = queue.limit, 0
        (node,) = await site.job("small")
        debris = await site.store.create(paths.NEW_NODE, b'{"state": "used"}', sequence=True)
        await site.until(lambda: len(site.view.nodes) == 2)
        for path in (paths.node(node.id), debris.path):
            await site.store.delete_tree(path)
        with structlog.testing.capture_logs() as logged:
            queue.limit = limit
            for lane in list(queue._lanes):
                queue._advance(lane)
            await queue.settled()
        assert [entry for entry in logged if entry["log_level"] == "error"] == []


async def test_node_that_became_ready_before_its_deleter_got_the_lock_stays(tmp_path: Path) -> None:
    """Another launcher may see a node building before it sees the lock on it; what counts is seen under the lock."""
    async with running(tmp_path) as site:
        request = await site.finished("small")
        (node,) = site.nodes()
        provider = site.launcher.providers["cloud"]
        assert not await delete_node(site.store, site.view, LoopClock(), provider, node.id)
        async with site.client.hold(request) as (held,):
            assert held.id == node.id


async def test_session_that_ends_while_the_launcher_starts_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter([SessionLostError(paths.PRESENCES)])
    ensure = EmbeddedStore.ensure

    async def ensure_in_the_end(self: EmbeddedStore, *where: str) -> None:
        if paths.PRESENCES in where and (end := next(ends, None)) is not None:
            raise end
        await ensure(self, *where)

    monkeypatch.setattr(EmbeddedStore, "ensure", ensure_in_the_end)
    async with running(tmp_path) as site:
        await site.job("small")
    assert next(ends, None) is None


async def test_pools_that_unregister_together_miss_no_registration(tmp_path: Path) -> None:
    """While one waits for the answer to its own deletion, those of the others are seen."""
    pools = "".join(f"      - {{name: more-{n}, max-servers: 1, labels: []}}\n" for n in range(5))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    async with running(tmp_path, more=pools) as site:
        pools_ = site.launcher.pools
        await site.until(lambda: len(pools_) == 6 and all(pool.may_start for pool in pools_.values()))
        delete = site.launcher.store.delete

        async def delayed(path: str, *arguments: object) -> None:
            await asyncio.sleep(0.01 * int(path[-2:]))
            await delete(path, *arguments)
            await asyncio.sleep(1.0)

        site.launcher.store.delete = delayed
        with structlog.testing.capture_logs() as logged:
            await site.launcher.drain(0.0)
        assert [entry for entry in logged if entry["event"] == "registration_lost"] == []
