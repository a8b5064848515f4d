"""Defects of Nodepool that docs/compatibility.md says are fixed, where no other test shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.protocol import paths
from nodelaunch.protocol.states import NodeState, RequestState
from support.sites import Data, Hosts, config, is_paused, lab, launched, machine, pool, provider

pytestmark = pytest.mark.looptime


def _limited(**more: object) -> Data:
    rows = [{"tenant-name": "acme", "max-servers": 1}]
    return config(provider(pool("small", "big"), **more), tenant_resource_limits=rows)


async def test_request_beyond_its_tenants_limit_is_declined(tmp_path: Path) -> None:
    async with launched(tmp_path, _limited()) as site:
        await site.failed("small", "small", tenant="acme")


async def test_node_that_is_free_again_does_not_count_for_its_last_tenant(tmp_path: Path) -> None:
    async with launched(tmp_path, _limited()) as site:
        request = await site.fulfilled("small", tenant="acme")
        await site.client.store.delete(paths.request(request.id))
        (free,) = await site.until_idle(1)
        assert free.tenant_name is None
        await site.set_node(free, tenant_name="acme")  # as Nodepool's launcher leaves it
        (node,) = await site.got("big", tenant="acme")
        assert node.type == ("big",)


async def test_ready_node_of_a_failed_set_is_free(tmp_path: Path) -> None:
    top = config(provider(pool("small", "big"), launch_retries=1), labels={"small": {"min-ready": 1}})
    async with launched(tmp_path, top) as site:
        (ready,) = await site.until_idle(1)
        site.cloud.fail("boot")
        await site.failed("small", "big", tenant="acme")
        await site.until(lambda: ready.id in {node.id for node in site.idle})
        free = site.view.nodes[ready.id].record
        assert (free.tenant_name, free.requestor, free.external_id) == (None, None, ready.external_id)


async def test_pool_is_not_kept_full_by_a_request_that_is_gone(tmp_path: Path) -> None:
    """Neither by one that waits to be taken, nor by one that was taken and then refused."""
    async with launched(tmp_path, config(provider(pool("small", max_servers=1)))) as site:
        jobs = await site.take(await site.fulfilled("small"))
        waiting = await site.ask("small")
        await site.until(lambda: is_paused(site))
        await waiting.cancel()
        await site.until(lambda: not is_paused(site))
        await jobs.give_all_back()
        await site.until_empty()
        site.cloud.fail("create", kind="quota", times=1000)
        refused = await site.ask("small")
        await site.until(lambda: is_paused(site) and site.request(refused).state is RequestState.PENDING)
        await refused.cancel()
        await site.until(lambda: not is_paused(site) and not site.view.nodes)
        tries = len(site.cloud.log())
        await site.a_while()
        assert len(site.cloud.log()) == tries


async def test_failed_and_aborted_are_seen_in_the_records(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small"), launch_retries=1))) as site:
        seen: set[NodeState] = set()
        site.view.subscribe(lambda _note: seen.update(node.state for node in site.nodes()))
        site.cloud.fail("create", kind="quota")
        await site.got("small")
        assert NodeState.ABORTED in seen
        site.cloud.fail("boot")
        await site.failed("small")
        assert NodeState.FAILED in seen


async def test_name_that_begins_with_fake_leaves_the_driver_alone(tmp_path: Path) -> None:
    async with launched(tmp_path, config(lab(machine("127.0.0.1"), name="fake-lab")), scanner=Hosts()) as site:
        assert [node.provider for node in await site.got("bare")] == ["fake-lab"]


async def test_node_kept_ready_that_vanishes_at_once_is_made_anew(tmp_path: Path) -> None:
    top = config(provider(pool("small")), labels={"small": {"min-ready": 1}})
    async with launched(tmp_path, top) as site:
        await site.until(lambda: any(seen.record.nodes for seen in site.view.requests.values()) or bool(site.idle))
        for node in site.nodes():
            await site.client.store.delete_tree(paths.node(node.id))
        await site.until_idle(1)
