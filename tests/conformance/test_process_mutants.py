"""Broken drivers in processes are caught by the check of the rule they break; a healthy one reaches gold."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from conformance.mutants import process
from conformance.mutants.process import MUTANTS, Healthy
from nodelaunch.conformance import DriverProgram, DriverUnderTest, Level, Report, Verdict, run
from nodelaunch.conformance.targets import filled_in
from nodelaunch.driverhost.process.child import Command
from nodelaunch.driverhost.process.driver import ProcessDriver, class_with
from nodelaunch.driverhost.process.options import provider_model
from nodelaunch.driverhost.wire.messages import Schemas
from nodelaunch.protocol.driver import DriverContext
from support.fakeclouds import NoScanner

DEADLINE_S = 240.0
CALL_S = 3.0


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for files that mutants leave."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
    return folder


def subject(name: str, folder: Path) -> DriverUnderTest:
    content = {"name": "cloud", "driver": name, **filled_in(Healthy.example, folder)}
    config = provider_model(Schemas.model_validate(Healthy.schemas)).model_validate(content)
    command = Command("healthy", (sys.executable, process.__file__, name))
    kind: type[ProcessDriver] = class_with(Healthy.capabilities)
    return DriverUnderTest(
        name=name, open=lambda: kind(command, config, DriverContext(NoScanner())), pool="main", label="small",
        program=DriverProgram(command, content), secrets=(process.PASSWORD,), deadline_s=CALL_S,
    )  # fmt: skip


async def report_on(name: str, folder: Path) -> Report:
    async with asyncio.timeout(DEADLINE_S):
        return await run(subject(name, folder))


async def test_healthy_driver_reaches_gold(tmp_path: Path) -> None:
    report = await report_on("Healthy", tmp_path)
    assert report.level is Level.GOLD, str(report)
    passed_over = {each.check for each in report.results if each.verdict is not Verdict.PASSED}
    not_its_own = {"machines_are_named_alike", "it_says_when_to_ask_again"}
    assert passed_over == not_its_own | {"stale_calls_are_refused", "other_calls_are_not_refused"}, str(report)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MUTANTS)
async def test_broken_driver_is_caught_by_its_rule(name: str, tmp_path: Path) -> None:
    _, rules, check = MUTANTS[name]
    report = await report_on(name, tmp_path)
    failed = {result.check: result.rule for result in report.failures}
    assert check in failed, str(report)
    assert failed[check] in rules.split(), str(report)
    assert set(failed.values()) <= set(rules.split()), str(report)
    assert report.level < Level.GOLD
