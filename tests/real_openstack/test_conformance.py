"""The driver keeps every rule of its contract on a real OpenStack."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodelaunch.conformance import Level, Verdict, run
from support.openstack import Found, Lab
from support.openstacksubject import subject_of
from support.proxy import Proxy

pytestmark = pytest.mark.openstack

DEADLINE_S = 1800.0


@pytest.mark.parametrize("label", ["plain", "floating"])
async def test_openstack_driver_keeps_every_rule(lab: Lab, monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(lab.clouds))
    async with asyncio.timeout(DEADLINE_S):
        report = await run(subject_of(lab, label))
    assert report.ok, str(report)
    assert not [result for result in report.results if result.verdict is Verdict.FAILED], str(report)
    assert await asyncio.to_thread(lab.found) == Found()


async def test_openstack_driver_reaches_silver(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checks cover any answer of Nova, and any fault of its hosts."""
    with Proxy(lab.endpoint("compute")) as proxy:
        clouds = lab.clouds_with({"compute_endpoint_override": proxy.url}, tmp_path)
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
        async with asyncio.timeout(DEADLINE_S):
            report = await run(subject_of(lab, "plain", proxy))
    assert report.level is Level.SILVER, str(report)
    assert report.leftovers == ()
    assert await asyncio.to_thread(lab.found) == Found()
