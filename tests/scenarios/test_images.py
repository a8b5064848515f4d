"""Labels whose image a builder makes: waited for at first, the newest used, and the zone of a node set."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodelaunch.protocol import paths
from nodelaunch.protocol.records import ImageBuild, ImageUpload
from nodelaunch.protocol.states import ImageState, NodeState, RequestState
from support.launchers import CONFIG, Running, running

pytestmark = pytest.mark.looptime

BUILD_ID = "d1fda19a92084a848d1123cc7ba9364a"
IMAGES = (
    CONFIG.replace("providers:", "diskimages: [{{name: jammy}}]\nproviders:", 1)
    .replace(
        "    cloud-images: [{{name: image}}]", "    cloud-images: [{{name: image}}]\n    diskimages: [{{name: jammy}}]"
    )
    .replace("{{name: small, cloud-image: image,", "{{name: small, diskimage: jammy,")
)


async def build(site: Running, state: ImageState, *, age_s: float = 0.0) -> None:
    path = f"{paths.IMAGES}/jammy/builds/{BUILD_ID}"
    now = site.launcher._clock.now() - age_s
    record = ImageBuild(path=path, image="jammy", build_id=BUILD_ID, state=state, state_time=now)
    await site.client.store.create(path, record.to_bytes(), parents=True)


async def upload(site: Running, state: ImageState, external_id: str | None = None) -> str:
    """Record an upload; its path."""
    folder = paths.uploads("jammy", BUILD_ID, "cloud")
    record = ImageUpload(
        path="", image="jammy", build_id=BUILD_ID, provider="cloud", upload_id="", state=state,
        state_time=site.launcher._clock.now(), external_id=external_id,
    )  # fmt: skip
    return (await site.client.store.create(f"{folder}/", record.to_bytes(), sequence=True, parents=True)).path


async def finish(site: Running, path: str, external_id: str) -> None:
    entry = await site.client.store.get(path)
    parts = paths.upload_at(path)
    assert parts is not None
    record = ImageUpload.from_bytes(path, entry.data, parts=parts)
    done = record.changed(state=ImageState.READY, external_id=external_id, state_time=site.launcher._clock.now())
    await site.client.store.put(path, done.to_bytes())


@pytest.mark.parametrize("began_as", ["building", "uploading"])
async def test_request_waits_for_the_first_upload_of_its_image(tmp_path: Path, began_as: str) -> None:
    async with running(tmp_path, IMAGES) as site:
        await build(site, ImageState.BUILDING if began_as == "building" else ImageState.READY)
        path = await upload(site, ImageState.UPLOADING) if began_as == "uploading" else None
        handle = await site.client.submit(["small"])
        await asyncio.sleep(600)
        assert site.view.requests[handle.id].record.state is RequestState.REQUESTED
        await finish(site, path or await upload(site, ImageState.UPLOADING), "image-1")
        assert (await handle.finished()).state is RequestState.FULFILLED
        (server,) = site.cloud.servers()
        assert server.image == "image-1"


async def test_request_does_not_wait_for_ever_for_an_upload(tmp_path: Path) -> None:
    async with running(tmp_path, IMAGES) as site:
        await build(site, ImageState.READY)
        await upload(site, ImageState.UPLOADING)
        assert (await site.finished("small")).state is RequestState.FAILED
        assert asyncio.get_running_loop().time() >= 3600


async def test_label_without_any_image_is_declined_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, IMAGES) as site:
        await build(site, ImageState.FAILED)
        assert (await site.finished("small")).state is RequestState.FAILED
        assert asyncio.get_running_loop().time() < 60


async def test_newest_ready_upload_is_booted_and_named_in_the_record(tmp_path: Path) -> None:
    async with running(tmp_path, IMAGES) as site:
        await upload(site, ImageState.READY, "image-1")
        await site.until(lambda: len(site.view.uploads) == 1)
        await site.finished("small")
        await asyncio.sleep(10)
        newest = await upload(site, ImageState.READY, "image-2")
        await upload(site, ImageState.UPLOADING, "image-3")
        await site.finished("small")
        assert {server.image for server in site.cloud.servers()} == {"image-1", "image-2"}
        assert max(site.nodes(), key=lambda node: node.id).image_id == newest


# -- zones ----------------------------------------------------------------------------------------------------------


async def test_launched_nodes_of_a_request_share_one_of_the_clouds_zones(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        seen = set()
        for _ in range(8):
            nodes = await site.job("big", "big", "big")
            assert len({node.az for node in nodes}) == 1
            seen.add(nodes[0].az)
        assert seen == {"az1", "az2"}


async def test_zone_that_fails_is_left_for_another(tmp_path: Path) -> None:
    config = CONFIG.replace("        max-servers:", "        availability-zones: [gone, az2]\n        max-servers:", 1)
    async with running(tmp_path, config) as site:
        for _ in range(6):
            (node,) = await site.job("big")
            assert (node.az, node.state) == ("az2", NodeState.IN_USE)


async def test_nodes_of_a_request_are_spread_over_zones_where_the_pool_wants_it(tmp_path: Path) -> None:
    zones = "        availability-zones: [az1, az2]\n        zone-policy: spread\n        max-servers:"
    async with running(tmp_path, CONFIG.replace("        max-servers:", zones, 1)) as site:
        for _ in range(4):
            nodes = await site.job("big", "big")
            assert sorted(node.az or "" for node in nodes) == ["az1", "az2"]


async def test_zone_that_fails_is_left_by_its_node_alone_where_they_are_spread(tmp_path: Path) -> None:
    zones = "        availability-zones: [az1, gone]\n        zone-policy: spread\n        max-servers:"
    async with running(tmp_path, CONFIG.replace("        max-servers:", zones, 1)) as site:
        nodes = await site.job("big", "big", "big")
        assert [node.az for node in nodes] == ["az1", "az1", "az1"]


async def test_zone_is_the_clouds_choice_where_the_pool_wants_it(tmp_path: Path) -> None:
    zones = "        availability-zones: [gone]\n        zone-policy: none\n        max-servers:"
    async with running(tmp_path, CONFIG.replace("        max-servers:", zones, 1)) as site:
        assert {node.az for node in await site.job("big", "big")} <= {"az1", "az2"}
