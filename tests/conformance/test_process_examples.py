"""The worked drivers in shell, JavaScript and Python keep the rules, on real processes of this machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodelaunch.conformance import Verdict, run
from nodelaunch.drivers import DriverRegistry
from support.processes import NEEDED, example, example_subject, running, slow_starts, why_not

DEADLINE_S = 240.0
LATE = {"sshd": {"a_deadline_is_kept"}}
"""Checks for gold only, which an example leaves to the launcher."""


@pytest.fixture(params=sorted(NEEDED))
def driver(request: pytest.FixtureRequest) -> str:
    """The path of an example's executable."""
    if reason := why_not(request.param):
        pytest.skip(reason)
    return example(request.param)


@pytest.fixture(params=["", "slow"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Set the time that the process of a node takes before its first action: on a busy machine, longer than a call."""
    if request.param:
        slow = slow_starts(tmp_path_factory.mktemp("slow"))
        request.getfixturevalue("monkeypatch").setenv("PATH", slow)


@pytest.mark.usefixtures("start")
async def test_example_keeps_the_rules(driver: str, tmp_path: Path) -> None:
    plugin = await asyncio.to_thread(DriverRegistry().get, driver)
    async with asyncio.timeout(DEADLINE_S):
        report = await run(example_subject(plugin, driver, tmp_path))
    assert {result.check for result in report.failures} <= LATE.get(plugin.name, set()), str(report)
    assert report.leftovers == ()
    skipped = {result.detail.partition(",")[0] for result in report.results if result.verdict is Verdict.SKIPPED}
    assert skipped == {
        "needs faults: ways in which the cloud fails",
        "needs faults that name their call and kind",
        "needs the fault 'list-lags'",
    }, str(report)
    # A directory that was not assigned to a node yet when its driver was killed costs nothing.
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".new-")] == []
    assert running(str(tmp_path)) == {}


def test_started_by_hand_it_says_what_it_is(driver: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NODELAUNCH")}
    done = subprocess.run([driver], capture_output=True, text=True, check=True, timeout=60, env=environment)
    name = driver.rpartition("-")[2]
    assert done.stdout.startswith(f"nodelaunch-driver-{name} 1.0\n")
    assert f"driver: {name}" in done.stdout


def test_driver_of_the_sdk_says_what_it_is_too() -> None:
    command = [sys.executable, "-m", "nodelaunch.sdk", "fake"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("nodelaunch-driver-fake")
    assert "It supports versions 1 to 1 of the driver contract." in done.stdout
