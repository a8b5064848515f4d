"""A launcher's reactions to the records that Nodepool's command line writes, command by command.

The tests write the same records as the commands; tests/peers runs the commands themselves.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import ImageState, NodeState
from support.sites import Data, Hosts, Site, config, lab, label, launched, machine, pool, provider

pytestmark = pytest.mark.looptime
HOST = "127.0.0.1"


def _kept_ready() -> Data:
    return config(provider(pool("small")), labels={"small": {"min-ready": 1}})


def _from_uploads() -> Data:
    cloud = provider(pool(label(diskimage="debian")), diskimages=[{"name": "debian"}])
    return config(cloud, diskimages=[{"name": "debian"}])


async def _replaced(site: Site, node: Node) -> None:
    await site.until(lambda: node.id not in site.view.nodes and len(site.idle) == 1)


async def test_list_makes_lock_directories_which_do_no_harm(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        await site.store.ensure(paths.node_lock(node.id))
        assert [found.id for found in await site.got("small")] == [node.id]


async def test_deleted_node_goes_with_its_instance(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        await site.set_node(node, NodeState.DELETING)
        await _replaced(site, node)
        assert site.cloud.server(node.external_id) is None


async def test_node_deleted_by_the_command_itself_is_replaced(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        site.cloud.remove(node.external_id)
        await site.store.delete_tree(paths.node(node.id))
        await _replaced(site, node)


async def test_static_machine_deleted_by_the_command_itself_is_registered_again(tmp_path: Path) -> None:
    async with launched(tmp_path, config(lab(machine(HOST))), scanner=Hosts()) as site:
        (node,) = await site.until_idle(1)
        await site.store.delete_tree(paths.node(node.id))
        await _replaced(site, node)


async def test_held_node_is_kept_and_another_one_launched(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready()) as site:
        (held,) = await site.until_idle(1)
        await site.set_node(held, NodeState.HOLD)
        await site.until(lambda: len(site.idle) == 1)
        assert held.id not in {node.id for node in await site.got("small", "small")}
        await site.a_while()
        assert site.view.nodes[held.id].record.state is NodeState.HOLD
        await site.set_node(site.view.nodes[held.id].record, NodeState.DELETING)
        await site.until(lambda: held.id not in site.view.nodes)


async def test_held_static_machine_is_not_handed_out(tmp_path: Path) -> None:
    async with launched(tmp_path, config(lab(machine(HOST))), scanner=Hosts()) as site:
        (held,) = await site.until_idle(1)
        await site.set_node(held, NodeState.HOLD)
        handle = await site.ask("bare")
        await site.a_while()
        assert list(site.view.nodes) == [held.id]
        await site.set_node(site.view.nodes[held.id].record, NodeState.DELETING)
        assert held.id not in (await handle.finished()).nodes


async def test_instances_of_erased_records_are_deleted(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        nodes = await site.got("small", "small")
        for node in nodes:  # without any lock
            deleted = node.into(NodeState.DELETED, site.now)
            await site.client.store.put(paths.node(node.id), deleted.to_bytes())
            await site.client.store.delete_tree(paths.node(node.id))
        await site.until(lambda: not site.view.nodes and site.cloud.servers() == [])


async def test_label_without_its_erased_uploads_is_declined(tmp_path: Path) -> None:
    async with launched(tmp_path, _from_uploads()) as site:
        path = await site.upload("debian")
        await site.got("small")
        await site.store.delete_tree(path.rpartition("/images/")[0])
        await site.failed("small")


async def test_upload_that_is_to_be_deleted_is_not_booted(tmp_path: Path) -> None:
    async with launched(tmp_path, _from_uploads()) as site:
        await site.upload("debian", external_id="old", state_time=site.now - 100)
        await site.upload("debian", external_id="new", state=ImageState.DELETING)
        await site.got("small")
        assert [server.image for server in site.cloud.servers()] == ["old"]


async def test_imported_upload_is_booted_at_once(tmp_path: Path) -> None:
    async with launched(tmp_path, _from_uploads()) as site:
        await site.failed("small")
        await site.upload("debian", external_id="imported")
        await site.got("small")
        assert [server.image for server in site.cloud.servers()] == ["imported"]


async def test_pause_and_build_requests_of_images_are_nothing_to_a_launcher(tmp_path: Path) -> None:
    async with launched(tmp_path, _from_uploads()) as site:
        await site.upload("debian")
        await site.store.ensure(f"{paths.IMAGES}/debian/pause", f"{paths.IMAGES}/debian/request-build")
        await site.got("small")
