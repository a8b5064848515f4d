"""Costs of keeping nodes ready."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.engine.supply.minready import MinReady
from nodelaunch.launcher import load_config
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.states import NodeState
from support.launchers import running, written

pytestmark = pytest.mark.looptime

READY = 18
ELSEWHERE = b'{"state": "ready", "provider": "elsewhere", "pool": "main", "type": ["other"]}'
"""A ready node of another launcher."""
MOST_TRIES = 10
"""Limit for attempts at a node of another launcher, in 100 seconds."""


async def test_a_request_is_looked_at_when_it_changes_and_not_when_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    collect = MinReady._collect

    async def counted(self: MinReady, request_id: RequestId) -> None:
        nonlocal looks
        looks += 1
        await collect(self, request_id)

    monkeypatch.setattr(MinReady, "_collect", counted)
    async with running(tmp_path, boot_time=1000.0, max_servers=20, min_ready=READY) as site:
        await site.until(lambda: len(site.nodes(NodeState.BUILDING)) == READY)
        before = looks
        for _ in range(10):
            idle = await site.client.store.create(paths.NEW_NODE, ELSEWHERE, sequence=True)
            await asyncio.sleep(1)
            assert site.view.idle_by_label.get("other") == 1
            await site.client.store.delete(idle.path)
            await asyncio.sleep(1)
        assert looks - before < READY


async def test_a_node_that_another_has_is_freed_when_it_is_let_go(tmp_path: Path) -> None:
    """No launcher retries in a loop meanwhile."""
    async with running(tmp_path, boot_time=1.0, min_ready=1) as site:
        await site.until(lambda: bool(site.nodes(NodeState.BUILDING)))
        (node,) = site.nodes()
        contender = await site.client.store.create(f"{paths.node_lock(node.id)}/{'f' * 32}__lock__", sequence=True)
        await site.until(lambda: bool(site.nodes(NodeState.READY)))
        request_id = site.nodes()[0].allocated_to
        before = site.launcher.store.operations
        await asyncio.sleep(100)
        tried = site.launcher.store.operations["commit"] - before["commit"]
        assert (site.nodes()[0].allocated_to, tried < MOST_TRIES) == (request_id, True)
        await site.client.store.delete(contender.path)
        await site.until(lambda: site.view.idle_by_label.get("small") == 1 and not site.view.requests)


async def test_min_ready_at_a_full_pool_is_told_once(tmp_path: Path) -> None:
    """Later attempts, and free capacity in the end, do not report it again."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    async with running(tmp_path, max_servers=1) as site:
        request = await site.finished("small")
        with capture_logs() as logs:
            path = written(tmp_path, min_ready=1, max_servers=1)
            await site.launcher.reload(load_config(path))
            await asyncio.sleep(600)
            told = Counter(entry["event"] for entry in logs if entry["log_level"] == "info")
            assert (told["min_ready_requested"], told["min_ready_declined"], told["request_declined"]) == (1, 1, 0)
            async with site.client.hold(request):
                pass
            await site.until(lambda: any(node.is_idle for node in site.nodes()))
            await site.until(lambda: any(entry["event"] == "min_ready_kept" for entry in logs))


async def test_min_ready_is_tried_anew_when_the_configuration_changes(tmp_path: Path) -> None:
    """The pause after many refusals is a minute; it is over with what is read."""
    async with running(tmp_path, max_servers=1) as site:
        request = await site.finished("small")
        await site.launcher.reload(load_config(written(tmp_path, min_ready=1, max_servers=1)))
        await asyncio.sleep(560)
        assert not any(node.is_idle for node in site.nodes())
        await site.launcher.reload(load_config(written(tmp_path, min_ready=1, max_servers=2)))
        await site.until(lambda: any(node.is_idle for node in site.nodes()), within_s=10)
        async with site.client.hold(request):
            pass


async def test_room_that_becomes_free_is_used_soon(tmp_path: Path) -> None:
    """The capacity is used before the end of a pause that has grown to a minute."""
    async with running(tmp_path, max_servers=1) as site:
        request = await site.finished("small")
        await site.launcher.reload(load_config(written(tmp_path, min_ready=1, max_servers=1)))
        await asyncio.sleep(560)
        async with site.client.hold(request):
            pass
        await site.until(lambda: any(node.is_idle for node in site.nodes()), within_s=10)


async def test_nothing_is_asked_for_while_requests_wait_for_the_room(tmp_path: Path) -> None:
    """However many nodes come and go meanwhile."""
    async with running(tmp_path, max_servers=1) as site:
        request = await site.finished("small")
        await site.launcher.reload(load_config(written(tmp_path, min_ready=1, max_servers=1)))
        await asyncio.sleep(60)
        jobs = [asyncio.ensure_future(site.job("big")) for _ in range(20)]
        await asyncio.sleep(1)
        with capture_logs() as logs:
            async with site.client.hold(request):
                pass
            await asyncio.gather(*jobs[:15])
            asked = [entry for entry in logs if entry["event"] == "min_ready_requested"]
        await asyncio.gather(*jobs)
        assert len(asked) <= 2
        await site.until(lambda: any(node.is_idle for node in site.nodes()), within_s=10)


async def test_launches_that_fail_wait_for_the_end_of_their_pause(tmp_path: Path) -> None:
    """The failed node that is deleted frees capacity, but capacity was not what was missing."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    async with running(tmp_path) as site:
        site.cloud.fail("create", kind="error", times=1000)
        with capture_logs() as logs:
            await site.launcher.reload(load_config(written(tmp_path, min_ready=1)))
            await asyncio.sleep(600)
            asked = [entry for entry in logs if entry["event"] == "min_ready_requested"]
        assert len(asked) <= 16
        (short,) = site.launcher.reporter.report().min_ready
        assert (short.label, short.wanted, short.ready, short.lacks_room) == ("small", 1, 0, False)
        assert short.why[0].startswith("cloud/main: ")
