"""The fake cloud by itself: steps, faults, limits, time, and what other processes do to its file."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from nodelaunch.drivers.fake import ledger
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.controls import FAULTS, CloudBusyError, CloudRefusedError
from nodelaunch.drivers.fake.driver import PAGE, FakeDriver
from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InstanceNotFoundError,
    InsufficientCapacityError,
    LaunchFailedError,
    LaunchTimeoutError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from nodelaunch.protocol.driver import METADATA_NODE_ID, Instance, InstanceSpec
from support.fakeclouds import LABEL, POOL, fake_driver

DEADLINE_S = 30.0
NEED = {"instances": 1, "cores": 4, "ram": 8192}
T = TypeVar("T")


@pytest.fixture(params=["memory", "file"])
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeCloud]:
    cloud = FakeCloud(tmp_path / "cloud.sqlite" if request.param == "file" else None)
    yield cloud
    cloud.close()


@pytest.fixture
def in_file(tmp_path: Path) -> Iterator[Callable[[], FakeCloud]]:
    """Opens the same file again, as another process would."""
    opened = []

    def open_file() -> FakeCloud:
        opened.append(FakeCloud(tmp_path / "cloud.sqlite"))
        return opened[-1]

    yield open_file
    for cloud in opened:
        cloud.close()


def a_spec(node_id: str = "0000000001", **more: object) -> InstanceSpec:
    return InstanceSpec(node_id, f"np{node_id}", POOL, LABEL, {METADATA_NODE_ID: node_id}, **more)


def make(cloud: FakeCloud, **more: object) -> str:
    return cloud.create(**{"name": "np1", "metadata": {METADATA_NODE_ID: "1"}, "resources": NEED, **more})


def states(cloud: FakeCloud) -> list[str]:
    return [server.state for server in cloud.servers()]


def story(cloud: FakeCloud) -> list[str]:
    return [entry["what"] for entry in cloud.log()]


async def outcome_of(call: Awaitable[T]) -> T | DriverError:
    try:
        return await call
    except DriverError as error:
        return error


async def first_listed(driver: FakeDriver) -> Instance:
    return await anext(driver.list_instances())


# -- steps ------------------------------------------------------------------------------------------------------------


def test_instance_keeps_what_it_was_made_with(cloud: FakeCloud) -> None:
    before = cloud.now
    instance_id = make(
        cloud,
        flavor="Unreal Flavor",
        image="debian",
        zone="az2",
        addresses={"private_ipv4": "fake"},
        details={"a": [1]},
    )
    server = cloud.server(instance_id)
    assert server is not None
    assert (server.id, server.name, server.state, server.flavor) == (instance_id, "np1", "active", "Unreal Flavor")
    assert (server.image, server.zone, server.metadata) == ("debian", "az2", {METADATA_NODE_ID: "1"})
    assert (server.resources, server.addresses, server.details) == (NEED, {"private_ipv4": "fake"}, {"a": [1]})
    assert before <= server.created_at <= cloud.now
    assert cloud.servers() == [server]
    assert cloud.used() == NEED


def test_log_tells_everything_in_order(cloud: FakeCloud) -> None:
    instance_id = make(cloud)
    cloud.set_state(instance_id, "error")
    cloud.delete(instance_id)
    log = cloud.log()
    assert [entry["what"] for entry in log] == ["create", "active", "error", "deleting", "gone"]
    assert {entry["id"] for entry in log} == {instance_id}
    assert {entry["node_id"] for entry in log} == {"1"}
    assert [entry["at"] for entry in log] == sorted(entry["at"] for entry in log)
    assert log[0]["detail"] == {"metadata": {METADATA_NODE_ID: "1"}, "resources": NEED}


def test_log_in_memory_is_bounded_and_the_peak_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LOG_KEPT", 6)
    cloud = FakeCloud(None)
    first, second = make(cloud), make(cloud)
    for instance_id in (first, second, make(cloud), make(cloud)):
        cloud.delete(instance_id)
    assert len(cloud.log()) == 6
    assert cloud.peak()["instances"] == 4
    cloud.close()


def test_limits_are_kept_whatever_the_order(cloud: FakeCloud) -> None:
    limits = {"instances": 2, "cores": 100}
    first, _ = make(cloud, limits=limits), make(cloud, limits=limits)
    with pytest.raises(CloudRefusedError, match="quota exceeded for instances") as caught:
        make(cloud, limits=limits)
    assert caught.value.kind == "quota"
    cloud.delete(first)
    make(cloud, limits=limits)
    assert cloud.peak() == {"instances": 2, "cores": 8, "ram": 16384}
    assert story(cloud).count("refused") == 1


def test_instance_takes_quota_until_it_is_gone(cloud: FakeCloud) -> None:
    instance_id = make(cloud)
    cloud.delete(instance_id, delete_time=3600)
    assert states(cloud) == ["deleting"]
    assert cloud.used() == NEED
    cloud.remove(instance_id)
    assert cloud.used() == {}


def test_unknown_zone_is_refused(cloud: FakeCloud) -> None:
    with pytest.raises(CloudRefusedError, match="az9 does not exist; there are: az1, az2"):
        make(cloud, zone="az9")
    assert cloud.servers() == []


def test_listing_goes_page_by_page(cloud: FakeCloud) -> None:
    ids = [make(cloud) for _ in range(5)]
    first = cloud.servers(limit=3)
    cloud.remove(ids[1])
    rest = cloud.servers(after=first[-1].number, limit=3)
    assert [server.id for server in (*first, *rest)] == ids


async def test_driver_lists_all_pages(cloud: FakeCloud) -> None:
    ids = [cloud.add() for _ in range(2 * PAGE + 1)]
    async with asyncio.timeout(DEADLINE_S):
        assert [instance.external_id async for instance in fake_driver(cloud).list_instances()] == ids


def test_a_step_that_fails_leaves_nothing(cloud: FakeCloud) -> None:
    cloud.fail("boot")
    with pytest.raises(TypeError):
        make(cloud, details={"not for JSON": object()})
    assert (cloud.servers(), cloud.used(), cloud.log()) == ([], {}, [])
    assert len(cloud.faults()) == 1


def test_ids_come_from_the_seed_in_memory_only(tmp_path: Path) -> None:
    one, two = FakeCloud(seed=7), FakeCloud(seed=7)
    assert [make(one) for _ in range(3)] == [make(two) for _ in range(3)]
    three, four = FakeCloud(tmp_path / "a", seed=7), FakeCloud(tmp_path / "b", seed=7)
    assert make(three) != make(four)
    for cloud in (one, two, three, four):
        cloud.close()


# -- settings and faults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("boot-time", "2.5", 2.5), ("delete-time", 0, 0), ("max-servers", "3", 3), ("failure-rate", "0.5", 0.5),
        ("failure-kind", "quota", "quota"), ("missing-images", "a, b", ["a", "b"]), ("unavailable", "true", True),
        ("unavailable", False, False),
    ],
)  # fmt: skip
def test_setting_is_checked_and_kept(cloud: FakeCloud, name: str, value: object, stored: object) -> None:
    cloud.set(name, value)
    assert cloud.settings() == {name: stored}
    cloud.set(name, None)
    assert cloud.settings() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boot-time", "soon"), ("boot-time", -1), ("boot-time", "nan"), ("boot-time", True), ("max-servers", "1.5"),
        ("failure-rate", 2), ("failure-kind", "never"), ("unavailable", "maybe"), ("missing-images", [1]),
        ("no-such", 1),
    ],
)  # fmt: skip
def test_setting_that_makes_no_sense_is_refused(cloud: FakeCloud, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        cloud.update({"max-cores": 1, name: value})
    assert cloud.settings() == {}


@pytest.mark.parametrize(
    ("call", "how"),
    [("reboot", {}), ("delete", {"kind": "quota"}), ("create", {"times": 0}), ("delete", {"leave": True})],
)
def test_fault_that_makes_no_sense_is_refused(cloud: FakeCloud, call: str, how: dict) -> None:
    with pytest.raises(ValueError, match=r"fail|times|leaves"):
        cloud.fail(call, **how)
    assert cloud.faults() == []


def test_faults_are_spent_in_order(cloud: FakeCloud) -> None:
    cloud.fail("create", times=2)
    cloud.fail("create", kind="quota")
    kinds = []
    for _ in range(3):
        with pytest.raises(CloudRefusedError) as caught:
            make(cloud)
        kinds.append(caught.value.kind)
    make(cloud)
    assert kinds == ["error", "error", "quota"]
    assert cloud.faults() == []


ERRORS = {
    "error": LaunchFailedError,
    "quota": QuotaExceededError,
    "capacity": InsufficientCapacityError,
    "timeout": LaunchTimeoutError,
    "rate-limit": ProviderUnavailableError,
    "unavailable": ProviderUnavailableError,
}


@pytest.mark.parametrize("kind", FAULTS["create"])
@pytest.mark.parametrize(("leave", "with_id"), [(False, True), (True, True), (True, False)])
async def test_failed_create_comes_out_as_its_kind(cloud: FakeCloud, kind: str, leave: bool, with_id: bool) -> None:
    driver = fake_driver(cloud)
    cloud.fail("create", kind=kind, leave=leave, with_id=with_id)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(ERRORS[kind]) as caught:
            await driver.create_instance(a_spec())
        left = [instance async for instance in driver.list_instances()]
    assert type(caught.value) is ERRORS[kind]
    assert (caught.value.kind is ErrorKind.RATE_LIMIT) == (kind == "rate-limit")
    assert len(left) == int(leave)
    assert caught.value.external_id == (left[0].external_id if leave and with_id else None)
    assert all(instance.metadata[METADATA_NODE_ID] == "0000000001" for instance in left)
    assert all(instance.is_active is (kind != "error") for instance in left)


@pytest.mark.parametrize("kind", ["error", "quota", "capacity"])
async def test_instance_that_breaks_while_booting_says_how(cloud: FakeCloud, kind: str) -> None:
    driver = fake_driver(cloud, boot_time=0.01)
    cloud.fail("boot", kind=kind)
    async with asyncio.timeout(DEADLINE_S):
        external_id = await driver.create_instance(a_spec())
        with pytest.raises(ERRORS[kind]) as caught:
            await driver.wait_until_active(external_id)
        with pytest.raises(ERRORS[kind]):
            await driver.wait_until_active(external_id)
    assert caught.value.external_id == external_id
    assert states(cloud) == ["error"]


async def test_boot_that_never_ends_ends_with_the_instance(cloud: FakeCloud) -> None:
    driver = fake_driver(cloud)
    cloud.fail("boot", kind="never")
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        external_id = await driver.create_instance(a_spec())
        waiting = group.create_task(outcome_of(driver.wait_until_active(external_id)))
        await asyncio.sleep(0)
        assert not waiting.done()
        await driver.delete_instance(external_id)
        assert isinstance(await waiting, InstanceNotFoundError)


async def test_delete_fails_as_often_as_told(cloud: FakeCloud) -> None:
    driver = fake_driver(cloud)
    cloud.fail("delete", times=2)
    async with asyncio.timeout(DEADLINE_S):
        external_id = await driver.create_instance(a_spec())
        for _ in range(2):
            with pytest.raises(LaunchFailedError):
                await driver.delete_instance(external_id)
            assert states(cloud) == ["active"]
        await driver.delete_instance(external_id)
    assert states(cloud) == []


async def test_stuck_delete_is_finished_by_the_next(cloud: FakeCloud) -> None:
    driver = fake_driver(cloud)
    cloud.fail("delete", kind="never")
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        external_id = await driver.create_instance(a_spec())
        stuck = group.create_task(driver.delete_instance(external_id))
        await asyncio.sleep(0)
        assert states(cloud) == ["deleting"]
        await driver.delete_instance(external_id)
        await stuck


async def test_cloud_that_is_down_refuses_everything(cloud: FakeCloud) -> None:
    driver = fake_driver(cloud)
    async with asyncio.timeout(DEADLINE_S):
        external_id = await driver.create_instance(a_spec())
        cloud.set("unavailable", True)
        for call in (
            lambda: driver.create_instance(a_spec("2")), lambda: driver.wait_until_active(external_id),
            lambda: driver.delete_instance(external_id), lambda: first_listed(driver), driver.quota_limits,
            lambda: driver.label_ready(POOL, LABEL),
        ):  # fmt: skip
            with pytest.raises(ProviderUnavailableError) as caught:
                await call()
            assert caught.value.retry_after_s
        cloud.set("unavailable", None)
        assert (await first_listed(driver)).external_id == external_id


@pytest.mark.parametrize(
    ("kind", "error"),
    [("quota", QuotaExceededError), ("capacity", InsufficientCapacityError), ("unavailable", ProviderUnavailableError)],
)
async def test_random_failure_refuses_the_create(cloud: FakeCloud, kind: str, error: type[DriverError]) -> None:
    cloud.update({"failure-rate": 1, "failure-kind": kind})
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(error):
            await fake_driver(cloud).create_instance(a_spec())
    assert story(cloud) == ["refused"]


async def test_random_error_and_timeout_show_while_booting(cloud: FakeCloud) -> None:
    async with asyncio.timeout(DEADLINE_S):
        broken = await fake_driver(cloud, failure_rate=1.0).create_instance(a_spec())
        endless = await fake_driver(cloud, failure_rate=1.0, failure_kind="timeout").create_instance(a_spec("2"))
    assert cloud.server(broken).state == "error"
    assert cloud.server(endless).state == "building"
    assert cloud.server(endless).next_at is None


async def test_random_failures_follow_the_seed() -> None:
    async def outcomes() -> list[bool]:
        driver = fake_driver(failure_rate=0.5, failure_kind="capacity", seed=3, limits={"max-servers": 99})
        outcomes = [await outcome_of(driver.create_instance(a_spec(str(number)))) for number in range(20)]
        await driver.aclose()
        return [isinstance(outcome, DriverError) for outcome in outcomes]

    async with asyncio.timeout(DEADLINE_S):
        first = await outcomes()
        assert first == await outcomes()
    assert set(first) == {True, False}


# -- time -------------------------------------------------------------------------------------------------------------


async def test_at_once_takes_no_timer(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """With boot-time 0 nothing waits: neither on the loop's clock nor for a change of the file."""
    driver = fake_driver(cloud)
    async with asyncio.timeout(DEADLINE_S):
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "call_at", None)
            external_id = await driver.create_instance(a_spec())
            assert (await driver.wait_until_active(external_id)).is_active
            await driver.delete_instance(external_id)
    assert story(cloud) == ["create", "active", "deleting", "gone"]


@pytest.mark.looptime
async def test_in_memory_time_is_the_loops() -> None:
    """An hour of booting and one of deleting pass on the virtual clock, to the second."""
    driver = fake_driver(boot_time=3600.0, delete_time=3600.0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    external_id = await driver.create_instance(a_spec())
    assert not (await first_listed(driver)).is_active
    await driver.wait_until_active(external_id)
    assert loop.time() - began == pytest.approx(3600, abs=0.01)
    await driver.delete_instance(external_id)
    assert loop.time() - began == pytest.approx(7200, abs=0.01)
    assert [entry["at"] - began for entry in driver.cloud.log()] == pytest.approx([0, 3600, 3600, 7200], abs=0.01)
    await driver.aclose()


async def test_instance_boots_on_while_nobody_runs(in_file: Callable[[], FakeCloud]) -> None:
    """An instance that was building when its process died is active for the next process, without a wait."""
    instance_id = make(in_file(), boot_time=3600)
    later = in_file()
    assert states(later) == ["building"]
    later._clock = lambda: time.time() + 3601
    assert states(later) == ["active"]
    assert later.server(instance_id).state == "active"
    cloud = in_file()
    cloud.delete(instance_id, delete_time=3600)
    cloud._clock = lambda: time.time() + 7300
    assert states(cloud) == []
    assert story(cloud) == ["create", "active", "deleting", "gone"]


async def test_what_is_due_frees_quota_before_the_next_create(in_file: Callable[[], FakeCloud]) -> None:
    cloud = in_file()
    cloud.delete(make(cloud), delete_time=3600)
    cloud._clock = lambda: time.time() + 3601
    make(cloud, limits={"instances": 1})
    assert cloud.peak()["instances"] == 1


async def test_slow_answer_finds_the_instance_there(cloud: FakeCloud) -> None:
    """With create-time the instance exists before its id is known: what a crash in between leaves."""
    cloud.set("create-time", 3600)
    async with asyncio.timeout(DEADLINE_S):
        creating = asyncio.create_task(fake_driver(cloud).create_instance(a_spec()))
        await asyncio.sleep(0)
        assert states(cloud) == ["active"]
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
    assert states(cloud) == ["active"]


# -- others change it while we wait -----------------------------------------------------------------------------------


async def waiting(cloud: FakeCloud, meanwhile: Callable[[str], object]) -> Instance | DriverError:
    """Return how a wait for a booting instance on *cloud* ends when *meanwhile* is done to the instance."""
    driver = fake_driver(cloud, boot_time=3600.0)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        external_id = await driver.create_instance(a_spec())
        task = group.create_task(outcome_of(driver.wait_until_active(external_id)))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
        meanwhile(external_id)
        return await task


@pytest.fixture(params=["same object", "other process"])
def outside(request: pytest.FixtureRequest, in_file: Callable[[], FakeCloud]) -> Iterator[tuple[FakeCloud, FakeCloud]]:
    """Yield a cloud, and the same cloud as another process opens it."""
    cloud = FakeCloud() if request.param == "same object" else in_file()
    yield cloud, cloud if cloud.path is None else in_file()
    cloud.close()


async def test_waiting_notices_that_the_instance_is_active(outside: tuple[FakeCloud, FakeCloud]) -> None:
    cloud, other = outside
    outcome = await waiting(cloud, lambda instance_id: other.set_state(instance_id, "active"))
    assert isinstance(outcome, Instance)
    assert outcome.is_active


async def test_waiting_notices_an_error(outside: tuple[FakeCloud, FakeCloud]) -> None:
    cloud, other = outside
    assert type(await waiting(cloud, lambda i: other.set_state(i, "error"))) is LaunchFailedError


@pytest.mark.parametrize("how", [FakeCloud.remove, FakeCloud.delete])
async def test_waiting_notices_that_the_instance_is_gone(
    outside: tuple[FakeCloud, FakeCloud], how: Callable[[FakeCloud, str], object]
) -> None:
    cloud, other = outside
    assert type(await waiting(cloud, lambda i: how(other, i))) is InstanceNotFoundError


async def test_what_is_being_deleted_is_not_waited_for(cloud: FakeCloud) -> None:
    driver = fake_driver(cloud)
    async with asyncio.timeout(DEADLINE_S):
        external_id = await driver.create_instance(a_spec())
        cloud.delete(external_id, delete_time=3600)
        with pytest.raises(InstanceNotFoundError):
            await driver.wait_until_active(external_id)


async def test_waiting_ends_when_the_driver_is_closed(in_file: Callable[[], FakeCloud]) -> None:
    cloud = in_file()
    assert type(await waiting(cloud, lambda _: cloud.close())) is ProviderUnavailableError


async def test_settings_from_outside_count_at_once(outside: tuple[FakeCloud, FakeCloud]) -> None:
    cloud, other = outside
    driver = fake_driver(cloud)
    async with asyncio.timeout(DEADLINE_S):
        other.set("max-servers", 1)
        assert (await driver.quota_limits())["instances"] == 1
        await driver.create_instance(a_spec())
        with pytest.raises(QuotaExceededError):
            await driver.create_instance(a_spec("2"))
        other.set("max-servers", None)
        await driver.create_instance(a_spec("3"))
        foreign = other.add()
        assert foreign in [instance.external_id async for instance in driver.list_instances()]


async def test_file_that_is_being_written_holds_nobody_up(tmp_path: Path) -> None:
    """While another process writes, a call waits on the loop, not in SQLite; then it is done."""
    path = tmp_path / "cloud.sqlite"
    driver = fake_driver(cloud_file=str(path))
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        first = await driver.create_instance(a_spec())
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        task = group.create_task(driver.create_instance(a_spec("2")))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        assert (await first_listed(driver)).external_id == first
        writer.execute("ROLLBACK")
        writer.close()
        await task
    await driver.aclose()


def test_busy_file_is_refused_without_patience(in_file: Callable[[], FakeCloud]) -> None:
    cloud = in_file()
    make(cloud)
    writer = sqlite3.connect(cloud.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(CloudBusyError):
        make(cloud)
    writer.close()
    assert len(cloud.servers()) == 1


MAKER = """
    import sys
    from pathlib import Path
    from nodelaunch.drivers.fake.cloud import FakeCloud

    cloud = FakeCloud(Path(sys.argv[1]), patience_s=10)
    while True:
        made = cloud.create(name="np1", metadata={}, resources={"instances": 1, "cores": 4})
        print(made, flush=True)
        if len(cloud.servers()) > 5:
            cloud.delete(cloud.servers(limit=1)[0].id)
"""


def test_killed_process_leaves_each_instance_made_or_not(in_file: Callable[[], FakeCloud]) -> None:
    """After a kill at any moment, acknowledged calls are stored, sums and log agree, and the next process continues."""
    cloud = in_file()
    told: list[str] = []
    for lines in (1, 7, 30):
        maker = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(MAKER), cloud.path], stdout=subprocess.PIPE, text=True
        )
        with maker:
            told += [maker.stdout.readline().strip() for _ in range(lines)]
            maker.send_signal(signal.SIGKILL)
            told += maker.stdout.read().split()
        assert maker.returncode == -signal.SIGKILL
        log = cloud.log()
        created = [entry["id"] for entry in log if entry["what"] == "create"]
        gone = [entry["id"] for entry in log if entry["what"] == "gone"]
        assert len(set(created)) == len(created)
        assert set(told) <= set(created)
        assert len(created) - len(told) in range(4)  # made, but killed before the id was out: once a process
        assert {server.id for server in cloud.servers()} == set(created) - set(gone)
        assert cloud.used() == {"cores": 4.0 * len(cloud.servers()), "instances": len(cloud.servers())}
    check = sqlite3.connect(cloud.path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


# -- files that are no fake cloud -------------------------------------------------------------------------------------


async def test_file_of_another_kind_makes_the_provider_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "cloud.sqlite"
    path.write_text("labels: []\n")
    driver = fake_driver(cloud_file=str(path))
    with pytest.raises(ProviderUnavailableError, match="not a database"):
        await driver.quota_limits()
    await driver.aclose()
    assert path.read_text() == "labels: []\n"


def test_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE things (name TEXT)")
    other.close()
    before = path.read_bytes()
    cloud = FakeCloud(path)
    with pytest.raises(CloudRefusedError, match="not a fake cloud of this version"):
        cloud.servers()
    cloud.close()
    assert path.read_bytes() == before


async def test_closed_driver_refuses(cloud: FakeCloud) -> None:
    driver = fake_driver()
    await driver.aclose()
    with pytest.raises(ProviderUnavailableError, match="closed"):
        await driver.quota_limits()
    shared = fake_driver(cloud)
    await shared.aclose()
    assert cloud.servers() == []  # a cloud that was handed in stays open
