"""Drivers in processes are named in a configuration like any other, and are started only then."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from nodelaunch.config.changes import differences
from nodelaunch.driverhost.executables import executables
from nodelaunch.driverhost.process.child import ENVIRONMENT
from nodelaunch.driverhost.process.driver import ProcessDriver
from nodelaunch.drivers import DriverRegistry
from nodelaunch.errors import ConfigError, DriverError
from nodelaunch.launcher import load_config
from nodelaunch.protocol.driver import DriverContext, SupportsUpkeep
from nodelaunch.protocol.states import NodeState
from support import mischief
from support.fakeclouds import NoScanner
from support.launchers import running
from support.process import run
from support.processes import example

DEADLINE_S = 60.0
MANUAL = Path(__file__).parents[2] / "docs" / "drivers" / "process.md"
CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: {driver}
    state-dir: {state}
    launch-timeout: 60
    pools: [{{name: main, max-servers: 2, labels: [{{name: small, command: exec sleep 1000}}]}}]
"""


def installed(folder: Path, name: str, fault: str = "") -> Path:
    """An executable ``nodelaunch-driver-NAME``; whenever it is started it leaves a file in *folder*."""
    path = folder / f"nodelaunch-driver-{name}"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {mischief.__file__} '{fault}' {folder}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def starts(folder: Path) -> int:
    return len(list(folder.glob("pid-*")))


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "nodepool.yaml"
    path.write_text(text)
    return path


def test_executable_on_the_path_is_found_by_its_name(on_path: Path) -> None:
    installed(on_path, "mine")
    plugin = DriverRegistry().get("mine")
    assert (plugin.name, plugin.version, plugin.maintainer, plugin.licence) == ("mine", "1.0", "somebody", "Apache-2.0")
    assert starts(on_path) == 1


def test_those_on_the_path_are_listed_and_not_started(on_path: Path) -> None:
    path = installed(on_path, "mine")
    installed(on_path, "other").chmod(0o644)
    found = executables()
    assert found["mine"].argv == (str(path),)
    assert "other" not in found
    assert starts(on_path) == 0


def test_executable_is_found_by_its_path(tmp_path: Path) -> None:
    plugin = DriverRegistry().get(str(installed(tmp_path, "mine")))
    assert plugin.name == "mine"


def test_what_is_not_executable_is_no_driver(tmp_path: Path) -> None:
    path = installed(tmp_path, "mine")
    path.chmod(0o644)
    with pytest.raises(Exception, match="unknown driver"):
        DriverRegistry().get(str(path))


def test_executable_is_started_only_when_a_provider_names_it(on_path: Path) -> None:
    installed(on_path, "mine")
    quiet = written(on_path, "providers: [{name: cloud, driver: test}]")
    assert run("config", "check", str(quiet)).returncode == 0
    assert starts(on_path) == 0
    asking = written(on_path, "providers: [{name: cloud, driver: mine, size: 3}]")
    assert run("config", "check", str(asking)).returncode == 0
    assert starts(on_path) == 1


def test_mistake_in_its_options_is_placed(on_path: Path) -> None:
    installed(on_path, "mine")
    path = written(on_path, "providers:\n  - name: cloud\n    driver: mine\n    sise: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (4, 5)
    assert "did you mean 'size'" in problem.message


def test_its_options_are_in_the_schema_for_editors(on_path: Path) -> None:
    installed(on_path, "mine")
    asked = run("config", "schema", "--output", str(on_path / "schema.json"))
    assert (asked.returncode, asked.stderr) == (0, "")
    schema = json.loads((on_path / "schema.json").read_text())
    right = {"providers": [{"name": "x", "driver": "mine", "size": 3, "pools": [{"name": "p", "labels": []}]}]}
    assert Draft202012Validator(schema).is_valid(right)
    wrong = {"providers": [{"name": "x", "driver": "mine", "size": 0}]}
    assert not Draft202012Validator(schema).is_valid(wrong)
    assert "fake" in schema["$defs"]


def test_driver_that_cannot_be_asked_is_left_out_of_the_schema(on_path: Path) -> None:
    installed(on_path, "mine", "exits at once")
    asked = run("config", "schema")
    assert asked.returncode == 0
    assert "mine" not in json.loads(asked.stdout)["$defs"]
    assert "left out: driver mine: " in asked.stderr
    assert "there is no cloud" in asked.stderr


def test_schema_of_one_driver_only(on_path: Path) -> None:
    installed(on_path, "mine", "exits at once")
    only = run("config", "schema", "--driver", "test")
    assert json.loads(only.stdout)["properties"]["providers"]["items"]["properties"]["driver"]["anyOf"][0] == {
        "enum": ["test"]
    }
    failed = run("config", "schema", "--driver", "mine")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "there is no cloud" in failed.stderr
    assert "unknown driver 'mien'" in run("config", "schema", "--driver", "mien").stderr
    unwritable = run("config", "schema", "--driver", "test", "--output", str(on_path))
    assert "can't be written: Is a directory" in unwritable.stderr


def test_driver_that_does_not_come_up_is_a_problem_of_its_provider(on_path: Path) -> None:
    installed(on_path, "mine", "exits at once")
    path = written(on_path, "providers:\n  - name: cloud\n    driver: mine\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (problem,) = caught.value.problems
    assert problem.line == 3
    assert "exited with code 7: there is no cloud" in problem.message


async def test_it_is_asked_when_the_configuration_is_read_and_never_on_the_event_loop(on_path: Path) -> None:
    installed(on_path, "mine")
    path = written(on_path, "providers: [{name: cloud, driver: mine, size: 3}]")
    config = await asyncio.to_thread(load_config, path)
    assert starts(on_path) == 1
    driver = DriverRegistry().open(config.providers[0], DriverContext(NoScanner()))
    assert starts(on_path) == 1
    await driver.aclose()


def test_same_configuration_read_again_is_the_same(on_path: Path) -> None:
    """A reload then leaves the provider alone, unless its executable now describes itself differently."""
    installed(on_path, "mine")
    path = written(on_path, "providers: [{name: cloud, driver: mine, pools: [{name: main}]}]")
    first = load_config(path)
    assert not differences(first, load_config(path))
    installed(on_path, "mine", "has zones")
    assert differences(first, load_config(path)).changed == ("cloud",)


async def test_driver_that_needs_the_cluster_says_so_where_there_is_none() -> None:
    registry = DriverRegistry()
    config = registry.get("metastatic").config_model.model_validate(
        {"name": "shares", "driver": "metastatic", "isolation": "process"}
    )
    driver = registry.open(config, DriverContext(NoScanner()))
    assert isinstance(driver, SupportsUpkeep)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(DriverError, match="no cluster for this driver"):
            await driver.upkeep()
        await driver.aclose()


async def test_isolation_takes_nothing_but_a_key(tmp_path: Path) -> None:
    path = written(tmp_path, "providers: [{name: cloud, driver: test, isolation: process}]")
    config = await asyncio.to_thread(load_config, path)
    driver = DriverRegistry().open(config.providers[0], DriverContext(NoScanner()))
    assert isinstance(driver, ProcessDriver)
    await driver.aclose()


def test_documented_configuration_loads(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    (provider,) = load_config(written(tmp_path, block)).providers
    assert provider.isolation == "process"


def test_documented_environment_is_what_is_passed() -> None:
    (words,) = re.findall(r"Without it a process gets (.*?)nothing else", MANUAL.read_text(), re.DOTALL)
    named = set(re.findall(r"[A-Z_]{2,}", words)) - {"XDG"}
    assert named == {name for name in ENVIRONMENT if not name.startswith("XDG")}


async def test_launcher_serves_nodes_of_an_executable(tmp_path: Path) -> None:
    state = tmp_path / "nodes"
    async with asyncio.timeout(DEADLINE_S), running(tmp_path, CONFIG, driver=example("command"), state=state) as made:
        (node,) = await made.job("small")
        assert (node.connection_type, node.hostname) == (None, node.hostname)
        assert node.state is NodeState.IN_USE
        await made.until_empty()
    assert list(state.iterdir()) == []


async def test_why_a_driver_is_down_is_told(tmp_path: Path, on_path: Path) -> None:
    """The output of ``nodelaunch explain`` for its provider's pools has the last lines of the driver's output."""
    folder = tmp_path / "site"
    folder.mkdir()
    path = installed(on_path, "mine")
    config = CONFIG.replace("    state-dir: {state}\n", "").replace("command: exec sleep 1000", "kind: a")
    async with asyncio.timeout(DEADLINE_S), running(folder, config, driver="mine") as made:
        provider = made.launcher.providers["cloud"]
        path.write_text("#!/bin/sh\necho the disk is full\nexit 3\n")
        assert isinstance(provider.driver, ProcessDriver)
        child = provider.driver.supervisor.child
        assert child is not None
        child.peer.end("killed by the test")
        provider.invalidate()
        await made.until(lambda: "the disk is full" in (provider.down or ""))
        asked = await made.client.submit(["small"])
        scheduler = made.launcher.scheduler
        await made.until(lambda: "the disk is full" in str(scheduler.explainer.explain(asked.id)))
        await asked.cancel()
