"""Faults that tests/fuzz has found, each as a scenario."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.decisions import machine as m
from nodelaunch.engine.nodelocks import to_the_end
from nodelaunch.engine.serve.handler import RequestHandler
from nodelaunch.errors import SessionLostError
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.records import Node, PoolRegistration
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.verdicts import Accept
from nodelaunch.store.embedded.store import EmbeddedStore
from support.builders import a_request
from support.launchers import CONFIG, Running, running

pytestmark = pytest.mark.looptime


def test_node_to_be_kept_ready_does_not_wait_for_quota() -> None:
    """The node gets only spare quota; if it waited, it would be served before requests of clients."""
    request = a_request().changed(requestor=paths.MIN_READY_REQUESTOR)
    state, _ = m.start(request, Accept((None,), Usage(instances=1)))
    state, _ = m.step(state, m.LockGranted(), retries=3)
    state, effects = m.step(state, m.NodeAborted(0), retries=3)
    assert state.outcome is m.Outcome.DECLINED
    assert [type(effect) for effect in effects] == [m.Save, m.UnlockRequest]


async def test_node_that_is_gone_by_now_is_not_deleted_again(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        assert site.launcher._parts is not None
        await site.launcher._parts.sweeper.nodes.delete(NodeId("0000000999"))
        await site.launcher._parts.sweeper.nodes.remove_debris(NodeId("0000000999"))


async def test_deleted_record_without_instance_does_not_end_the_wait_after_a_refusal(tmp_path: Path) -> None:
    """Otherwise each refusal is followed at once by the next: launch, refuse, delete, without a pause."""
    async with running(tmp_path) as site:
        loop = asyncio.get_running_loop()
        site.cloud.fail("create", kind="quota", times=4)
        started = loop.time()
        await site.finished("small")
        assert loop.time() - started > 1 + 2 + 4 + 8


async def _idle_node(site: Running, label: str = "small") -> Node:
    handle = await site.client.submit([label])
    await handle.finished()
    await handle.cancel()
    await site.until(lambda: any(node.is_idle for node in site.nodes()))
    return next(node for node in site.nodes() if node.is_idle)


async def test_idle_node_gives_way_to_an_accepted_request_that_waits(tmp_path: Path) -> None:
    async with running(tmp_path, max_servers=2) as site:
        idle = await _idle_node(site)
        site.cloud.fail("create", kind="quota")
        handle = await site.client.submit(["big"])
        await site.until(lambda: bool(site.launcher.scheduler.queue.waiters))
        await site.store.create(paths.NEW_NODE, idle.to_bytes(), sequence=True)
        async with asyncio.timeout(100):
            assert (await handle.finished()).state is RequestState.FULFILLED


async def test_accepted_request_is_declined_once_it_can_never_be_served(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.set("max-servers", 1)
        async with asyncio.timeout(60):
            request = await site.finished("small", "small")
        assert request.state is RequestState.FAILED


async def test_requests_that_wait_for_what_the_other_has_are_both_served(tmp_path: Path) -> None:
    """Each has one of its two nodes, and there are only two: one has to let go."""
    async with running(tmp_path) as site:
        site.cloud.set("max-servers", 2)
        site.cloud.fail("create", kind="quota")
        handles = [await site.client.submit(["small", "small"]) for _ in range(2)]
        await site.until(lambda: len(site.nodes(NodeState.READY)) == 2)

        async def use(index: int) -> None:
            async with site.client.hold(await handles[index].finished()):
                pass

        async with asyncio.timeout(1000):
            await asyncio.gather(use(0), use(1))


async def test_request_declined_by_all_fails_when_the_last_other_pool_is_gone(tmp_path: Path) -> None:
    """The registration of a launcher that was killed stays until its session times out, and declines nothing."""
    async with running(tmp_path) as site, site.store.connect() as killed:
        left = PoolRegistration(id="host-PoolWorker.gone", name="main", provider_name="gone", hostname="there")
        await killed.create(f"{paths.POOLS}/there", left.to_bytes(), ephemeral=True, sequence=True)
        handle = await site.client.submit(["nobody-has-this"])
        await site.until(lambda: bool(site.view.requests[handle.id].record.declined_by))
        assert site.view.requests[handle.id].record.state is RequestState.REQUESTED
        await killed.expire_session()
        async with asyncio.timeout(1000):
            assert (await handle.finished()).state is RequestState.FAILED


async def test_lost_request_is_reset_only_when_its_nodes_are_free(tmp_path: Path) -> None:
    async with running(tmp_path) as site, site.store.connect() as operator:
        idle = await _idle_node(site)
        site.cloud.set("boot-time", 250)
        handle = await site.client.submit(["small", "big"])
        await site.until(lambda: site.view.nodes[idle.id].record.allocated_to == handle.id)
        looking = asyncio.ensure_future(operator.lock(paths.node_lock(idle.id), timeout_s=600))
        await asyncio.sleep(1)
        await site.store.expire_session()
        lock = await looking
        await asyncio.sleep(20)
        assert site.view.requests[handle.id].record.state is RequestState.PENDING
        await lock.release()
        states: list[RequestState] = []

        def note(_note: object) -> None:
            if (seen := site.view.request(handle.id)) is not None:
                states.append(seen.state)

        site.view.subscribe(note)
        await site.until(lambda: RequestState.REQUESTED in states)


async def test_retry_waits_for_room_while_the_failed_node_can_not_be_deleted(tmp_path: Path) -> None:
    async with running(tmp_path, max_servers=1) as site:
        site.cloud.fail("boot")
        site.cloud.fail("delete", times=3)
        assert len(await site.job("small")) == 1
        assert site.cloud.peak()["instances"] == 1


async def test_instance_left_unnamed_by_a_failed_create_is_deleted_before_the_next_attempt(tmp_path: Path) -> None:
    async with running(tmp_path, max_servers=1) as site:
        site.cloud.fail("create", leave=True, with_id=False)
        assert len(await site.job("small")) == 1
        assert site.cloud.peak()["instances"] == 1


async def test_machine_whose_ready_record_is_written_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, when launch-timeout is over between that write and its answer, the record outlives its machine."""
    put = EmbeddedStore.put

    async def slow(self: EmbeddedStore, path: str, data: bytes, **more: Any) -> Any:
        entry = await put(self, path, data, **more)
        if b'"state": "ready"' in data and paths.node_id_at(path):
            await asyncio.sleep(5.0)
        return entry

    monkeypatch.setattr(EmbeddedStore, "put", slow)
    async with running(tmp_path, boot_time=298.0) as site:
        request = await site.finished("small")
        assert request.state is RequestState.FULFILLED
        (node,) = site.nodes()
        assert [server.id for server in site.cloud.servers()] == [node.external_id]
        assert request.nodes == (node.id,)


async def test_task_cancelled_before_its_first_step_answers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine waits for an answer from each: a request of which one never comes stays pending for ever."""
    really_perform = RequestHandler._perform
    withdrawn: set[str] = set()

    async def perform(handler: RequestHandler, effects: tuple[m.Effect, ...], group: asyncio.TaskGroup) -> None:
        if any(isinstance(effect, m.AwaitQuota) for effect in effects) and handler.request.id not in withdrawn:
            withdrawn.add(handler.request.id)
            handler.post(m.Withdrawn())
        await really_perform(handler, effects, group)

    async with running(tmp_path) as site:
        monkeypatch.setattr(RequestHandler, "_perform", perform)
        site.cloud.fail("create", kind="quota", times=1)
        async with asyncio.timeout(600):
            assert (await site.finished("small")).state is RequestState.FULFILLED
        assert withdrawn


async def test_launch_refused_for_quota_spends_no_retry_even_if_its_instance_can_not_be_deleted(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("boot", kind="quota", times=3)
        site.cloud.fail("delete", times=5)
        async with asyncio.timeout(600):
            assert (await site.finished("small")).state is RequestState.FULFILLED
        await site.until(lambda: len(site.cloud.servers()) == 1)


@pytest.mark.parametrize("delete_time", [0.0, 30.0])
async def test_tenant_keeps_to_its_limit_while_a_refused_launch_is_made_up_for(
    tmp_path: Path, delete_time: float
) -> None:
    """Neither does another request get the share meanwhile, nor does the next launch begin beside what is left."""
    config = CONFIG.replace(
        "providers:", "tenant-resource-limits: [{{tenant-name: limited, max-servers: 1}}]\nproviders:", 1
    )
    async with running(tmp_path, config, delete_time=delete_time) as site:
        most = 0

        def count(_note: object) -> None:
            nonlocal most
            most = max(most, sum(not node.is_idle for node in site.nodes()))

        site.launcher.view.subscribe(count)
        site.cloud.fail("boot", kind="quota", times=1)
        site.cloud.fail("delete", times=1)
        asked = [await site.client.submit(["small"], tenant="limited") for _ in range(2)]
        for handle in asked:
            async with asyncio.timeout(600), site.client.hold(await handle.finished()):
                pass
        assert most == 1


async def test_work_that_must_end_ends_however_often_its_caller_is_cancelled() -> None:
    gate, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        ended.set()
        raise SessionLostError

    caller = asyncio.ensure_future(to_the_end(work()))
    for _ in range(3):
        await asyncio.sleep(1)
        caller.cancel()
    await asyncio.sleep(1)
    assert not caller.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
