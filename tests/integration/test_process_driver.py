"""A driver's process is started clean, follows the contract, and is ended; the launcher survives all its faults."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from nodelaunch.driverhost.process.child import ENVIRONMENT, TAIL_LINES, Command
from nodelaunch.driverhost.process.driver import ProcessDriver, class_with
from nodelaunch.driverhost.process.options import provider_model
from nodelaunch.driverhost.process.plugin import describe, executable_plugin
from nodelaunch.driverhost.process.supervisor import Pings, Restarts
from nodelaunch.driverhost.wire.handshake import SOCKET_VARIABLE
from nodelaunch.driverhost.wire.messages import Schemas, VersionRange
from nodelaunch.drivers import DriverNotFoundError
from nodelaunch.errors import TEXT_LIMIT, DriverError, ErrorKind, LaunchFailedError, ProviderUnavailableError, Scope
from nodelaunch.protocol.driver import DriverContext, ExternalId, InstanceSpec, SupportsConsoleLog, SupportsZones
from nodelaunch.protocol.quota import Limits
from support import mischief
from support.fakeclouds import NoScanner
from support.processes import running

DEADLINE_S = 60.0
CONTENT = {
    "name": "cloud",
    "driver": "mischief",
    "pools": [{"name": "main", "labels": [{"name": "small", "kind": "a"}]}],
}
SPEC = InstanceSpec("1", "np1", "main", "small", {"nodepool_node_id": "1"})
PATIENT = Restarts(first_s=60.0)
"""Back-off that prevents a restart within a test."""
QUICK = Restarts(first_s=0.001, last_s=0.001, degraded_after=2)


def command(fault: str, folder: Path) -> Command:
    return Command("mischief", (sys.executable, mischief.__file__, fault, str(folder)))


@asynccontextmanager
async def driver(
    fault: str, folder: Path, kind: type[ProcessDriver] = ProcessDriver, **more: Any
) -> AsyncIterator[ProcessDriver]:
    config = provider_model(Schemas()).model_validate(CONTENT)
    made = kind(command(fault, folder), config, DriverContext(NoScanner()), **{"restarts": PATIENT, **more})
    async with asyncio.timeout(DEADLINE_S):
        try:
            yield made
        finally:
            await made.aclose()
    assert running(str(folder)) == {}, "a closed driver is gone"


@pytest.fixture
def entries() -> list[MutableMapping[str, Any]]:
    """Return the log entries of the test."""
    taken: list[MutableMapping[str, Any]] = []

    def take(_logger: Any, method: str, entry: MutableMapping[str, Any]) -> str:
        taken.append({**entry, "level": method})
        raise structlog.DropEvent

    structlog.configure(processors=[take], wrapper_class=structlog.make_filtering_bound_logger(0))
    return taken


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


# -- as it should be --------------------------------------------------------------------------------------------------


async def test_a_driver_works(tmp_path: Path) -> None:
    async with driver("", tmp_path) as made:
        assert await made.quota_limits() == Limits(instances=7)
        assert made.label_traits("main", "small").connection_type == "telepathy"
        external_id = await made.create_instance(SPEC)
        assert external_id == "i-1"
        assert (await made.wait_until_active(external_id)).is_active
        assert [each.metadata async for each in made.list_instances()] == [SPEC.metadata]
        await made.delete_instance(external_id)
        assert [each async for each in made.list_instances()] == []


async def test_process_is_started_once_by_the_first_call(tmp_path: Path) -> None:
    async with driver("", tmp_path) as made:
        assert list(tmp_path.iterdir()) == []
        await asyncio.gather(*(made.quota_limits() for _ in range(20)))
        assert len(list(tmp_path.glob("pid-*"))) == 1


async def test_driver_data_comes_back_with_the_next_call(tmp_path: Path) -> None:
    async with driver("", tmp_path) as made:
        external_id = await made.create_instance(SPEC)
        await made.wait_until_active(external_id)
        assert (tmp_path / "data").read_text() == "null"
        await made.wait_until_active(external_id)
        assert (tmp_path / "data").read_text() == '{"note": 1}'


async def test_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_PASSWORD", "secret")
    async with driver("tells its environment", tmp_path) as made:
        await made.quota_limits()
    text = (tmp_path / "environment").read_text()
    assert "OS_PASSWORD" not in text
    assert set(json.loads(text)) <= {*ENVIRONMENT, SOCKET_VARIABLE}


async def test_capabilities_are_parts_of_the_class(tmp_path: Path) -> None:
    kind = class_with(describe_in(tmp_path, "has zones").capabilities)
    async with driver("has zones", tmp_path, kind) as made:
        assert isinstance(made, SupportsZones)
        assert not isinstance(made, SupportsConsoleLog)
        assert await made.zones() == ("a", "b")


def describe_in(folder: Path, fault: str) -> Any:
    return describe(command(fault, folder))


async def test_options_are_checked_by_the_drivers_schemas(tmp_path: Path) -> None:
    model = (await asyncio.to_thread(executable_plugin, command("", tmp_path))).config_model
    assert model.model_validate({**CONTENT, "size": 3})
    for wrong in (
        {"size": 0},
        {"size": "3"},
        {"sise": 3},
        {"pools": [{"name": "main", "labels": [{"name": "small"}]}]},
    ):
        with pytest.raises(ValueError, match="validation error"):
            model.model_validate({**CONTENT, **wrong})


# -- versions ---------------------------------------------------------------------------------------------------------


async def test_driver_of_the_future_that_speaks_ours_too_works(tmp_path: Path) -> None:
    async with driver("is of the future", tmp_path) as made:
        await made.quota_limits()
        child = made.supervisor.child
        assert child is not None
        assert child.version == 1


async def test_driver_of_the_previous_version_works_as_long_as_that_is_spoken(tmp_path: Path) -> None:
    async with driver("", tmp_path, versions=VersionRange(min=1, max=2)) as made:
        await made.quota_limits()
        child = made.supervisor.child
        assert child is not None
        assert child.version == 1


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ("is only of the future", "versions 8 to 9 .* version 1: upgrade nodelaunch$"),
        ("is of the past", "upgrade the driver$"),
    ],
)
async def test_mismatch_says_which_side_to_upgrade(tmp_path: Path, fault: str, advice: str) -> None:
    async with driver(fault, tmp_path) as made:
        with pytest.raises(ProviderUnavailableError, match=advice) as caught:
            await made.quota_limits()
        assert caught.value.kind is ErrorKind.CONFIG
    with pytest.raises(DriverNotFoundError, match=advice):
        await asyncio.to_thread(describe_in, tmp_path, fault)


# -- starts that fail -------------------------------------------------------------------------------------------------


async def test_driver_that_exits_is_told_with_its_last_words(tmp_path: Path) -> None:
    async with driver("exits at once", tmp_path) as made:
        with pytest.raises(ProviderUnavailableError, match="exited with code 7: there is no cloud"):
            await made.quota_limits()
        with pytest.raises(
            ProviderUnavailableError, match=r"being restarted; .*there is no cloud; next start in"
        ) as caught:
            await made.quota_limits()
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > 20


async def test_driver_that_keeps_ending_is_degraded(tmp_path: Path) -> None:
    async with driver("exits at once", tmp_path, restarts=Restarts(first_s=0.001, last_s=3600.0)) as made:
        for _ in range(40):
            with pytest.raises(ProviderUnavailableError) as caught:
                await made.quota_limits()
            if "degraded" in str(caught.value):
                break
        assert made.supervisor.is_degraded
        assert "times in a row" in str(caught.value)
        assert "there is no cloud" in str(caught.value)


async def test_driver_without_the_token_is_refused(tmp_path: Path) -> None:
    async with driver("has no token", tmp_path) as made:
        with pytest.raises(ProviderUnavailableError, match="failed: it did not prove that it has the token"):
            await made.quota_limits()


async def test_proof_that_is_no_text_is_refused(tmp_path: Path) -> None:
    async with driver("proves nothing in surrogates", tmp_path) as made:
        with pytest.raises(
            ProviderUnavailableError, match=r"it sent a message that is invalid at proof \(it has control characters"
        ):
            await made.quota_limits()


def test_driver_that_never_connects_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodelaunch.driverhost.process.plugin.DESCRIBE_TIMEOUT_S", 1.0)
    with pytest.raises(DriverNotFoundError, match="not connected and shaken hands within 1 s"):
        describe_in(tmp_path, "never connects")
    assert running(str(tmp_path)) == {}


def test_what_is_no_executable_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "nodelaunch-driver-broken"
    broken.write_text("not a program")
    broken.chmod(0o755)
    with pytest.raises(DriverNotFoundError, match=r"driver broken: .*Exec format error"):
        describe(Command("broken", (str(broken),)))


# -- calls that fail --------------------------------------------------------------------------------------------------


async def test_death_in_a_create_says_what_may_be_left(tmp_path: Path, entries: list[MutableMapping[str, Any]]) -> None:
    async with driver("dies in create", tmp_path) as made:
        with pytest.raises(ProviderUnavailableError) as caught:
            await made.create_instance(SPEC)
        assert (caught.value.external_id, caught.value.may_exist) == ("i-1", True)
        with pytest.raises(ProviderUnavailableError, match=r"exited with code 3.*the last words"):
            await made.quota_limits()
    assert {"event": "driver_output", "driver": "mischief", "line": "the last words", "level": "info"} in entries


async def test_another_process_takes_the_place_of_one_that_died(tmp_path: Path) -> None:
    async with driver("dies in create", tmp_path, restarts=QUICK) as made:
        for _ in range(3):
            with pytest.raises(ProviderUnavailableError):
                await made.create_instance(SPEC)
        assert await made.quota_limits() == Limits(instances=7)
        assert len(list(tmp_path.glob("pid-*"))) == 4


@pytest.mark.parametrize(
    ("fault", "detail"),
    [("says garbage", "invalid JSON: 'Segmentation"), ("says too much", "line longer than 1048576 bytes")],
)
async def test_garbage_ends_the_process(tmp_path: Path, fault: str, detail: str) -> None:
    async with driver(fault, tmp_path) as made:
        with pytest.raises(ProviderUnavailableError, match=detail):
            await made.create_instance(SPEC)
        with pytest.raises(ProviderUnavailableError, match=f"being restarted; it sent .*{detail}"):
            await made.quota_limits()


async def test_error_of_tomorrow_is_internal(tmp_path: Path) -> None:
    async with driver("invents a kind", tmp_path) as made:
        with pytest.raises(DriverError, match="the sun is gone") as caught:
            await made.create_instance(SPEC)
        assert (caught.value.kind, caught.value.scope) == (ErrorKind.INTERNAL, Scope.REQUEST)


async def test_result_that_is_wrong_is_an_error(tmp_path: Path) -> None:
    async with driver("answers nothing sensible", tmp_path) as made:
        with pytest.raises(
            DriverError, match=r"instance\.create with a result that is invalid at: external_id"
        ) as caught:
            await made.create_instance(SPEC)
        assert caught.value.may_exist


async def test_too_much_driver_data_is_refused(tmp_path: Path) -> None:
    async with driver("gives too much data", tmp_path) as made:
        with pytest.raises(DriverError, match="invalid driver_data: more than 16384 bytes"):
            await made.wait_until_active(ExternalId("i-1"))


@pytest.mark.parametrize("fault", sorted(mischief.IDS))
async def test_instance_that_can_not_be_named_is_refused(tmp_path: Path, fault: str) -> None:
    async with driver(fault, tmp_path) as made:
        with pytest.raises(
            DriverError, match=r"instance\.create with a result that is invalid at: external_id \("
        ) as caught:
            await made.create_instance(SPEC)
        assert (caught.value.kind, caught.value.may_exist) == (ErrorKind.INTERNAL, True)
        assert await made.quota_limits() == Limits(instances=7)


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        ("gives deep data", "invalid driver_data: nested deeper than 64 levels"),
        ("gives huge numbers", "invalid driver_data: a number in it has more than 64 bits"),
        ("is somehow active", r"invalid at: instance\.is_active"),
    ],
)
async def test_instance_that_is_wrong_is_refused(tmp_path: Path, fault: str, detail: str) -> None:
    async with driver(fault, tmp_path) as made:
        with pytest.raises(DriverError, match=detail) as caught:
            await made.wait_until_active(ExternalId("i-1"))
        assert caught.value.kind is ErrorKind.INTERNAL
        assert await made.quota_limits() == Limits(instances=7)


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        ("lists the same page for ever", "returned the same next_cursor twice: again"),
        ("lists pages without end", "returned 50 pages with 0 instances, and has more"),
    ],
)
async def test_list_without_end_is_refused(
    tmp_path: Path, fault: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodelaunch.driverhost.process.driver.MAX_PAGES", 50)
    async with driver(fault, tmp_path) as made:
        with pytest.raises(DriverError, match=detail) as caught:
            _ = [each async for each in made.list_instances()]
        assert caught.value.kind is ErrorKind.INTERNAL


async def test_list_of_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodelaunch.driverhost.process.driver.MAX_LISTED", 1)
    monkeypatch.setattr("nodelaunch.driverhost.process.driver.MAX_PAGES", 1)
    async with driver("", tmp_path) as made:
        await made.create_instance(SPEC)
        assert len([each async for each in made.list_instances()]) == 1, "one page may have as many as it likes"


async def test_error_is_cut_and_made_legible(tmp_path: Path) -> None:
    async with driver("says very much", tmp_path) as made:
        with pytest.raises(
            LaunchFailedError, match=r"^a\N{REPLACEMENT CHARACTER}\[2J a.* \[\.\.\.\] .*the end$"
        ) as caught:
            await made.create_instance(SPEC)
        assert len(str(caught.value)) <= TEXT_LIMIT
        assert (caught.value.external_id, caught.value.retry_after_s) == (None, None)
    async with driver("fails in surrogates", tmp_path) as made:
        with pytest.raises(LaunchFailedError, match=r"half a character: \ufffd$"):
            await made.create_instance(SPEC)


@pytest.mark.parametrize("fault", sorted(mischief.STRAYS))
async def test_answer_to_nothing_that_was_asked_is_told_once(
    tmp_path: Path, entries: list[MutableMapping[str, Any]], fault: str
) -> None:
    async with driver(fault, tmp_path) as made:
        assert await made.create_instance(SPEC) == "i-1"
    (told,) = [entry for entry in entries if entry["event"] == "driver_answer_unmatched"]
    assert (told["driver"], told["level"]) == ("mischief", "warning")
    assert told["detail"].startswith("an answer with ")
    assert "\x1b" not in told["detail"]
    (counted,) = [entry for entry in entries if entry["event"] == "driver_answers_unmatched"]
    assert (counted["driver"], counted["answers"]) == ("mischief", 999)


async def test_answer_that_comes_too_late_is_none_to_nothing(
    tmp_path: Path, entries: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodelaunch.driverhost.wire.peer.CANCEL_GRACE_S", 0.0)
    async with driver("is too late", tmp_path) as made:
        await made.quota_limits()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await made.create_instance(SPEC)
        child = made.supervisor.child
        assert child is not None
        await until(lambda: not child.peer._given_up)
    assert not [entry for entry in entries if entry["event"] == "driver_answer_unmatched"]


async def test_cancelled_create_is_told_and_its_last_word_logged(
    tmp_path: Path, entries: list[MutableMapping[str, Any]]
) -> None:
    async with driver("is too late", tmp_path) as made:
        await made.quota_limits()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await made.create_instance(SPEC)
        (given_up,) = [entry for entry in entries if entry["event"] == "call_given_up"]
        assert (given_up["method"], given_up["may_exist"]) == ("instance.create", True)


async def test_unexpected_exception_is_internal_and_says_where(tmp_path: Path) -> None:
    async with driver("", tmp_path) as made:
        with pytest.raises(DriverError, match=r"KeyError: 'nothing'") as caught:
            await made.wait_until_active(ExternalId("nothing"))
        assert caught.value.kind is ErrorKind.INTERNAL
        assert not isinstance(caught.value, LaunchFailedError)


# -- hygiene ----------------------------------------------------------------------------------------------------------


async def test_whatever_a_driver_started_goes_with_it(tmp_path: Path) -> None:
    """The processes run in the driver's process group, or in a session of their own."""
    async with driver("starts others", tmp_path) as made:
        await made.create_instance(SPEC)
        others = [int((tmp_path / name).read_text()) for name in ("child", "daemon")]
        assert all(Path(f"/proc/{pid}").exists() for pid in others)
    assert not any(Path(f"/proc/{pid}").exists() for pid in others)


async def test_driver_that_will_not_go_is_killed(tmp_path: Path) -> None:
    async with driver("will not go", tmp_path) as made:
        await made.quota_limits()


async def test_flood_of_output_is_cut(tmp_path: Path, entries: list[MutableMapping[str, Any]]) -> None:
    async with driver("logs much", tmp_path) as made:
        await made.quota_limits()
        child = made.supervisor.child
        assert child is not None
        await until(lambda: "line 4999" in child.tail.lines)
        assert len(child.tail.lines) == TAIL_LINES
    logged = [entry for entry in entries if entry["event"] == "driver_output"]
    assert len(logged) < 5000


async def test_notifications_are_logged_and_unknown_ones_passed_over(
    tmp_path: Path, entries: list[MutableMapping[str, Any]]
) -> None:
    async with driver("notes", tmp_path) as made:
        await made.quota_limits()
    (said,) = [entry for entry in entries if entry["event"] == "driver_says"]
    assert (said["what"], said["driver"], said["said"]) == ("hello", "mischief", {"secret": False, "driver": "me"})


async def test_flood_of_notifications_is_cut(tmp_path: Path, entries: list[MutableMapping[str, Any]]) -> None:
    async with driver("notes very much", tmp_path) as made:
        await made.quota_limits()
    said = [entry for entry in entries if entry["event"] == "driver_says"]
    dropped = [entry["notes"] for entry in entries if entry["event"] == "driver_notes_dropped"]
    assert said[0]["said"] == {"left_out": "nested deeper than 64 levels"}
    assert said[1]["said"] == {"deep": None}
    assert (len(said) + sum(dropped), len(said) < 5000) == (5000, True)


async def test_idle_driver_that_does_not_answer_is_replaced(
    tmp_path: Path, entries: list[MutableMapping[str, Any]]
) -> None:
    async with driver("goes deaf", tmp_path, pings=Pings(after_s=0.05, timeout_s=0.2)) as made:
        asking = asyncio.ensure_future(made.quota_limits())
        await until(lambda: any(tmp_path.glob("pid-*")))
        await asyncio.wait([asking], timeout=0.5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: any(entry["event"] == "driver_ended" for entry in entries))


async def test_stranger_at_the_socket_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: list[MutableMapping[str, Any]]
) -> None:
    """The other process has our user, but is not the process that was started."""
    with tempfile.TemporaryDirectory(prefix="np-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        async with driver("never connects", tmp_path) as made:
            asking = asyncio.ensure_future(made.quota_limits())
            await until(lambda: any(Path(short).glob("nodelaunch-*/driver")) and any(tmp_path.glob("pid-*")))
            (path,) = Path(short).glob("nodelaunch-*/driver")
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            assert any(entry["event"] == "driver_connection_refused" for entry in entries)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert list(Path(short).iterdir()) == []
