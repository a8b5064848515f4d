"""The fake cloud refuses calls with lower fences than it had for the node, and forgets none with its process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.controls import CloudRefusedError
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.errors import ErrorKind, StaleFenceError
from nodelaunch.protocol.driver import METADATA_NODE_ID, Fence, InstanceSpec, SupportsFencing
from support.fakeclouds import LABEL, POOL, fake_driver

SPEC = InstanceSpec("1", "np1", POOL, LABEL, {METADATA_NODE_ID: "1"})

Opener = Callable[[], FakeCloud]


@pytest.fixture(params=["memory", "file"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """The same cloud, by another process where it can be."""
    opened: list[FakeCloud] = []

    def open_cloud() -> FakeCloud:
        if not opened or request.param == "file":
            opened.append(FakeCloud(tmp_path / "cloud.sqlite" if request.param == "file" else None))
        return opened[-1]

    yield open_cloud
    for cloud in opened:
        cloud.close()


def make(cloud: FakeCloud, fence: Fence | None, **more: object) -> str:
    metadata = {METADATA_NODE_ID: "1"}
    return cloud.create(name="np1", metadata=metadata, resources={"instances": 1}, fence=fence, **more)  # type: ignore[arg-type]


def test_lower_fence_is_refused_and_told_in_the_log(another: Opener) -> None:
    kept = make(another(), Fence("1", 7))
    with pytest.raises(CloudRefusedError, match="fence 6 of node 1 is stale: there was a call with 7"):
        make(another(), Fence("1", 6))
    with pytest.raises(CloudRefusedError, match="stale"):
        another().delete(kept, fence=Fence("1", 6))
    with pytest.raises(CloudRefusedError, match="stale"):
        another().raise_fence(Fence("1", 6))
    assert [server.id for server in another().servers()] == [kept]
    refused = [entry for entry in another().log() if entry["what"] == "refused"]
    assert [(entry["id"], entry["node_id"], entry["detail"]["kind"]) for entry in refused] == [
        (None, "1", "stale"), (kept, "1", "stale"),
    ]  # fmt: skip


def test_same_fence_other_nodes_and_calls_without_one_are_taken(another: Opener) -> None:
    first = make(another(), Fence("1", 7))
    make(another(), Fence("1", 7))
    make(another(), Fence("2", 1))
    make(another(), None)
    assert another().delete(first, fence=Fence("1", 7)) is None


def test_whatever_its_fence_a_delete_of_what_is_gone_is_done(another: Opener) -> None:
    another().raise_fence(Fence("1", 7))
    assert another().delete("nowhere", fence=Fence("1", 6)) is None
    assert another().delete("nowhere", fence=Fence("1", 9)) is None
    with pytest.raises(CloudRefusedError, match="with 9"):
        make(another(), Fence("1", 8))


def test_call_that_is_refused_for_another_reason_counts(another: Opener) -> None:
    with pytest.raises(CloudRefusedError, match="quota"):
        make(another(), Fence("1", 7), limits={"instances": 0})
    with pytest.raises(CloudRefusedError, match="stale"):
        make(another(), Fence("1", 6))


def test_cloud_that_is_down_has_had_no_call(another: Opener) -> None:
    another().set("unavailable", True)
    with pytest.raises(CloudRefusedError, match="down"):
        another().raise_fence(Fence("1", 7))
    another().set("unavailable", None)
    make(another(), Fence("1", 6))


def test_file_from_before_there_were_fences_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "cloud.sqlite"
    cloud = FakeCloud(path)
    make(cloud, None)
    cloud.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE fences")
    db.close()
    cloud = FakeCloud(path)
    cloud.raise_fence(Fence("1", 7))
    assert len(cloud.servers()) == 1
    cloud.close()


async def test_driver_says_that_a_call_is_stale() -> None:
    driver: FakeDriver = fake_driver()
    assert isinstance(driver, SupportsFencing)
    await driver.raise_fence(Fence("1", 7))
    with pytest.raises(StaleFenceError) as caught:
        await driver.create_instance(InstanceSpec("1", "np1", POOL, LABEL, {}, fence=Fence("1", 6)))
    assert (caught.value.kind, caught.value.may_exist) == (ErrorKind.STALE, False)
    external_id = await driver.create_instance(SPEC)
    with pytest.raises(StaleFenceError):
        await driver.delete_fenced(external_id, Fence("1", 6))
    await driver.delete_fenced(external_id, Fence("1", 7))
    assert driver.cloud.servers() == []
