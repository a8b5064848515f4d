"""Launchers and drivers of different versions of the contract meet as docs/driver-contract.md says."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nodelaunch.driverhost.process.child import Command, start
from nodelaunch.driverhost.process.driver import ProcessDriver
from nodelaunch.driverhost.process.plugin import executable_plugin
from nodelaunch.driverhost.wire.handshake import CONTRACT, proof
from nodelaunch.driverhost.wire.messages import AUTHENTICATE, HELLO, VersionRange
from nodelaunch.driverhost.wire.peer import RpcError
from nodelaunch.drivers import DriverNotFoundError, DriverRegistry
from nodelaunch.drivers import test as installed
from nodelaunch.drivers.test import PLUGIN
from nodelaunch.errors import ConfigError, ErrorKind, ProviderUnavailableError
from nodelaunch.launcher import load_config
from nodelaunch.protocol.driver import DriverContext, InstanceSpec
from nodelaunch.sdk import serve
from nodelaunch.sdk.server import DriverServer
from support.fakeclouds import NoScanner

DEADLINE_S = 60.0
PROGRAM = Path(__file__).parents[1] / "support" / "versioned.py"
SPEC = InstanceSpec("1", "np1", "main", "small", {"nodepool_node_id": "1"})
CONFIG = {"name": "cloud", "driver": "test", "pools": [{"name": "main", "labels": ["small"]}]}

Versions = tuple[int, int]


def spoken(versions: Versions) -> VersionRange:
    return VersionRange(min=versions[0], max=versions[1])


def driver_of(versions: Versions) -> Command:
    """An executable whose driver keeps *versions*."""
    arguments = (sys.executable, str(PROGRAM), str(versions[0]), str(versions[1]))
    return Command("lab", arguments, environment=("PYTHONPATH",))


@pytest.mark.parametrize(
    ("launcher", "driver", "version"),
    [
        ((1, 2), (1, 1), 1),  # the driver has not been upgraded yet
        ((1, 1), (1, 2), 1),  # the launcher has not
        ((1, 2), (1, 9), 2),
        ((CONTRACT.min, CONTRACT.max), (1, 9), CONTRACT.max),
        ((4, 5), (3, 4), 4),
    ],
)
async def test_highest_common_version_is_spoken_and_works(launcher: Versions, driver: Versions, version: int) -> None:
    config = PLUGIN.config_model.model_validate(CONFIG)
    made = ProcessDriver(driver_of(driver), config, DriverContext(NoScanner()), versions=spoken(launcher))
    async with asyncio.timeout(DEADLINE_S):
        try:
            external_id = await made.create_instance(SPEC)
            assert [each.external_id async for each in made.list_instances()] == [external_id]
            await made.delete_instance(external_id)
            child = made.supervisor.child
            assert child is not None
            assert (child.version, child.contract) == (version, spoken(driver))
        finally:
            await made.aclose()


@pytest.mark.parametrize(
    ("launcher", "driver", "words"),
    [
        ((2, 3), (1, 1), ("version 1", "versions 2 to 3: upgrade the driver")),
        ((1, 2), (3, 4), ("versions 3 to 4", "versions 1 to 2: upgrade nodelaunch")),
    ],
)
async def test_without_a_common_version_it_is_said_which_side_to_upgrade(
    launcher: Versions, driver: Versions, words: tuple[str, str]
) -> None:
    message = f"driver lab speaks {words[0]} of the driver contract, this nodelaunch {words[1]}"
    with pytest.raises(ProviderUnavailableError) as caught:
        await start(driver_of(driver), lambda _method, _params: None, versions=spoken(launcher))
    assert (str(caught.value), caught.value.kind) == (message, ErrorKind.CONFIG)
    with pytest.raises(DriverNotFoundError) as told:
        await asyncio.to_thread(executable_plugin, driver_of(driver), versions=spoken(launcher))
    assert str(told.value) == message


def test_driver_of_the_future_is_a_problem_of_its_provider(tmp_path: Path) -> None:
    """The problem has its place in the file; other providers are not affected."""
    program = tmp_path / "nodelaunch-driver-lab"
    command = " ".join(f"'{word}'" for word in driver_of((3, 4)).argv)
    program.write_text(f"#!/bin/sh\nexec env PYTHONPATH='{':'.join(sys.path)}' {command}\n")
    program.chmod(0o755)
    path = tmp_path / "nodepool.yaml"
    path.write_text(f"providers:\n  - {{name: good, driver: test}}\n  - name: lab\n    driver: {program}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (4, 13)
    assert problem.message.endswith(": upgrade nodelaunch")


@pytest.mark.parametrize(
    ("kept", "advice"), [((2, 3), "upgrade nodelaunch"), ((0, 0), "upgrade the driver"), ((1, 1), ""), ((1, 9), "")]
)
def test_driver_in_the_launcher_is_held_to_the_same(
    kept: Versions, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "PLUGIN", replace(PLUGIN, contract=kept))
    if not advice:
        assert DriverRegistry().get("test").contract == kept
        return
    with pytest.raises(DriverNotFoundError, match=f"^driver test speaks .*: {advice}$"):
        DriverRegistry().get("test")


def test_sdk_that_is_too_old_for_its_driver_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(replace(PLUGIN, contract=(7, 8)), versions=spoken((1, 2))) == 1
    assert capsys.readouterr().err.endswith(": upgrade nodelaunch\n")


async def test_version_that_was_not_offered_is_refused() -> None:
    server = DriverServer(PLUGIN, "0" * 64, spoken((1, 1)))
    hello = {"protocol": {"min": 1, "max": 9}, "launcher": {"name": "x"}, "nonce": "aa"}
    answer = await server.answer(HELLO.name, hello, 1)
    proved = proof("0" * 64, "launcher", "aa", answer["nonce"])
    with pytest.raises(RpcError, match="version 2 of the contract was not offered"):
        await server.answer(AUTHENTICATE.name, {"protocol": 2, "proof": proved}, 2)
    assert not server.is_proved
