"""A GARM provider keeps the rules by the adapter, in both versions of its interface, inline and as a process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodelaunch.conformance import Verdict, run
from nodelaunch.driverhost.process.plugin import isolated
from nodelaunch.drivers import DriverRegistry
from nodelaunch.protocol.driver import DriverContext
from support import garm
from support.fakeclouds import NoScanner
from support.processes import running

DEADLINE_S = 600.0
pytestmark = pytest.mark.skipif(garm.why_not() is not None, reason=garm.why_not() or "")


@pytest.mark.parametrize(("version", "isolation"), [("v0.1.0", "inline"), ("v0.1.1", "process")])
async def test_provider_keeps_the_rules(tmp_path: Path, version: str, isolation: str) -> None:
    plugin = DriverRegistry().get("garm")
    content = garm.provider_content(tmp_path, interface_version=version, isolation=isolation)
    assert plugin.model_for is not None
    model = await asyncio.to_thread(plugin.model_for, content)
    config = model.model_validate(content)
    used = isolated(plugin) if isolation == "process" else plugin
    async with asyncio.timeout(DEADLINE_S):
        report = await run(garm.subject(tmp_path, lambda: used.open(config, DriverContext(NoScanner()))))
    assert report.ok, str(report)
    skipped = {result.rule for result in report.results if result.verdict is Verdict.SKIPPED}
    assert skipped == {"D6.2", "D6.3", "D6.4", "D7.2", "D8.2", "D8.3"}, str(report)
    assert [path for path in (tmp_path / "state").iterdir() if path.name != ".lock"] == []
    assert running(str(tmp_path)) == {}
