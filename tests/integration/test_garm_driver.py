"""A GARM provider at work: nodes that can be logged in to, and providers that fail, hang, babble or are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.drivers.garm import GarmDriver, GarmProvider, calls
from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InstanceNotFoundError,
    LabelUnusableError,
    LaunchFailedError,
    ProviderUnavailableError,
)
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_POOL,
    METADATA_PROVIDER,
    DriverContext,
    ExternalId,
    InstanceSpec,
)
from nodelaunch.protocol.states import RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support import garm
from support.fakeclouds import NoScanner
from support.launchers import LoopClock, Running, at_work, written
from support.process import Serve
from support.processes import running

DEADLINE_S = 90.0
pytestmark = pytest.mark.skipif(garm.why_not() is not None, reason=garm.why_not() or "")


def opened(home: Path, **more: Any) -> GarmDriver:
    config = GarmProvider.model_validate(garm.provider_content(home, **more))
    return GarmDriver(config, DriverContext(NoScanner()))


def spec(node_id: str = "0000000001", attempt: int = 1) -> InstanceSpec:
    metadata = {METADATA_NODE_ID: node_id, METADATA_POOL: "main", METADATA_PROVIDER: "local"}
    return InstanceSpec(node_id, f"np{node_id}", "main", "small", metadata, attempt=attempt)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.02)


def left(home: Path) -> list[str]:
    """Return the leftovers of instances: directories, and processes."""
    state = home / "state"
    folders = [path.name for path in state.iterdir() if path.is_dir()] if state.is_dir() else []
    return [*folders, *running(str(state)).values()]


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "words"), [
    ("exits 1", "CreateInstance ended with exit code 1: CreateInstance exits 1"),
    ("exits 30", "CreateInstance ended with exit code 30"),
    ("garbage", "CreateInstance printed no JSON: 'Listening on port 8080"),
    ("no id", "CreateInstance printed an instance is expected to have text as its provider_id"),
    ("killed in a create", "CreateInstance was killed by signal 9"),
    ("fails by its own account", "no room"),
])  # fmt: skip
async def test_create_that_fails_says_how_and_leaves_nothing(tmp_path: Path, fault: str, words: str) -> None:
    driver = opened(tmp_path)
    garm.break_with(tmp_path, fault)
    with pytest.raises(LaunchFailedError) as caught:
        await driver.create_instance(spec())
    assert words in str(caught.value)
    assert left(tmp_path) == []


async def test_create_that_can_not_be_undone_says_what_to_delete(tmp_path: Path) -> None:
    driver = opened(tmp_path)
    garm.break_with(tmp_path, "exits 1")
    with pytest.raises(LaunchFailedError) as caught:
        await driver.create_instance(spec())
    assert caught.value.may_exist
    assert caught.value.external_id is not None
    assert caught.value.external_id.startswith("nl-0000000001-1-local-main@")
    garm.break_with(tmp_path, None)
    await driver.delete_instance(ExternalId(caught.value.external_id))


@pytest.mark.parametrize("fault", ["exits 1", "garbage", "floods"])
async def test_list_that_fails_is_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(calls, "MAX_OUTPUT", 1 << 20)
    driver = opened(tmp_path)
    garm.break_with(tmp_path, fault)
    with pytest.raises(ProviderUnavailableError):
        _ = [instance async for instance in driver.list_instances()]
    assert running(str(tmp_path / "provider")) == {}


async def test_executable_that_is_not_there_makes_the_provider_away(tmp_path: Path) -> None:
    driver = opened(tmp_path, executable="/nowhere/provider")
    with pytest.raises(ProviderUnavailableError) as caught:
        await driver.create_instance(spec())
    assert caught.value.kind is ErrorKind.CONFIG
    assert "No such file or directory" in str(caught.value)


async def test_the_same_asked_twice_is_one_instance(tmp_path: Path) -> None:
    """The first answer may have been lost with a launcher."""
    driver = opened(tmp_path)
    first = await driver.create_instance(spec())
    assert await opened(tmp_path).create_instance(spec()) == first
    other = await driver.create_instance(spec(attempt=2))
    assert other != first
    assert {i.external_id async for i in driver.list_instances()} == {first, other}
    for external_id in (first, other):
        await driver.delete_instance(external_id)
    assert left(tmp_path) == []


async def test_duplicate_that_is_not_listed_is_a_conflict(tmp_path: Path) -> None:
    driver = opened(tmp_path)
    garm.break_with(tmp_path, "exits 31")
    with pytest.raises(DriverError):
        await driver.create_instance(spec())


async def test_instance_that_is_gone_is_not_found_and_deleted(tmp_path: Path) -> None:
    driver = opened(tmp_path)
    external_id = await driver.create_instance(spec())
    await driver.delete_instance(external_id)
    await driver.delete_instance(external_id)
    with pytest.raises(InstanceNotFoundError):
        await driver.wait_until_active(external_id)


async def test_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelUnusableError, match="more than 63 characters"):
        await opened(tmp_path).create_instance(spec(node_id="1" * 60))


# -- deadlines and cancelling -----------------------------------------------------------------------------------------


async def test_slow_create_is_ended_at_its_deadline_with_all_it_started(tmp_path: Path) -> None:
    driver = opened(tmp_path, launch_timeout=5.0)
    garm.break_with(tmp_path, "hangs in a create")
    with pytest.raises(ProviderUnavailableError) as caught:
        await driver.create_instance(spec())
    assert caught.value.kind is ErrorKind.DEADLINE
    assert list(tmp_path.glob("hanging-*"))
    assert running(f"{tmp_path}/provider") == {}
    assert running(garm.__file__) == {}


async def test_cancelled_create_ends_with_all_it_started(tmp_path: Path) -> None:
    driver = opened(tmp_path)
    garm.break_with(tmp_path, "hangs in a create")
    creating = asyncio.ensure_future(driver.create_instance(spec()))
    await until(lambda: len(list(tmp_path.glob("hanging-*"))) == 2)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert running(garm.__file__) == {}
    assert left(tmp_path) == []


async def test_no_more_commands_run_at_a_time_than_allowed(tmp_path: Path) -> None:
    driver = opened(tmp_path, max_processes=2)
    garm.break_with(tmp_path, "hangs")
    waiting = [asyncio.ensure_future(driver.wait_until_active(ExternalId(f"i-{n}@pool"))) for n in range(5)]
    await until(lambda: len(list(tmp_path.glob("hanging-*"))) == 4)  # each with its child
    assert len(running(garm.__file__)) == 4
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert running(garm.__file__) == {}


# -- a launcher -------------------------------------------------------------------------------------------------------

SITE = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: local
    driver: garm
    executable: {executable}
    config-file: {config_file}
    interface-version: v0.1.1
    poll-interval: 0.05
    launch-timeout: 60
    pools:
      - name: main
        use-internal-ip: true
        labels:
          - name: small
            image: debian
            flavor: tiny
            username: {user}
            connection-port: {port}
            ssh-keys: ["{key}"]
            extra-specs: {{environment: {{COLOUR: blue}}}}
            install-script: "touch done"
"""


def site_file(home: Path, key: str = "ssh-ed25519 AAAA") -> Path:
    content = garm.provider_content(home)
    user = os.environ.get("USER") or "root"
    return written(
        home, SITE, executable=content["executable"], config_file=content["config-file"], user=user, port=garm.PORT,
        key=key,
    )  # fmt: skip


@asynccontextmanager
async def site(home: Path, key: str) -> AsyncIterator[Running]:
    store = EmbeddedStore(None, clock=LoopClock().now)
    async with (
        at_work(site_file(home, key), store, scanner=SshScanner()) as launcher,
        store.connect() as session,
        NodeClient(session, clock=LoopClock()) as client,
    ):
        yield Running(launcher, client, store)


async def test_node_is_made_logged_in_to_and_given_back(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with (
        asyncio.timeout(DEADLINE_S),
        site(tmp_path, key.export_public_key().decode().strip()) as made,
    ):
        request = await made.finished("small")
        assert request.state is RequestState.FULFILLED
        async with made.client.hold(request) as nodes:
            (node,) = nodes
            assert node.interface_ip is not None
            assert node.private_ipv4 == node.interface_ip
            trusted = asyncssh.import_known_hosts("".join(f"* {each}\n" for each in node.host_keys))
            async with asyncssh.connect(
                node.interface_ip, node.connection_port, username=node.username, client_keys=[key],
                known_hosts=trusted, config=None, agent_path=None,
            ) as connection:  # fmt: skip
                done = await connection.run("echo $COLOUR", check=True)
            assert done.stdout == "blue\n"
            (folder,) = (path for path in (tmp_path / "state").iterdir() if path.is_dir())
            assert (folder / "done").exists()
        await made.until(lambda: not made.nodes())
    assert left(tmp_path) == []


def test_killed_launcher_takes_a_hanging_create_along(tmp_path: Path) -> None:
    path = site_file(tmp_path)
    text = path.read_text().replace("labels: [{name: small}]", "labels: [{name: small, min-ready: 1}]")
    path.write_text(f"embedded-store: {{path: {tmp_path}/store.sqlite}}\n{text}")
    server = Serve(path)
    try:
        server.await_log("http_listening")
        garm.break_with(tmp_path, "hangs in a create")
        deadline = time.monotonic() + DEADLINE_S
        while not list(tmp_path.glob("hanging-*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(DEADLINE_S)
        while running(garm.__file__):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        server.kill()
