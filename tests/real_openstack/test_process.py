"""The OpenStack driver in a process of its own keeps the same rules, and answers the same, as in the launcher's."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nodelaunch.conformance import DriverProgram, Level, run
from nodelaunch.driverhost.process.child import Command
from nodelaunch.driverhost.process.plugin import PYTHON_ENVIRONMENT, isolated
from nodelaunch.drivers.openstack import PLUGIN
from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.protocol.driver import DriverContext
from support.fakeclouds import NoScanner
from support.openstack import Found, Lab, pool, provider
from support.openstacksubject import subject_of
from support.proxy import Proxy
from support.traces import trace_of

pytestmark = pytest.mark.openstack

DEADLINE_S = 1800.0
VARIABLE = "OS_CLIENT_CONFIG_FILE"
"""Variable by which openstacksdk finds clouds.yaml; a process gets it by ``pass-environment``."""


def config_of(label: str) -> OpenStackProvider:
    return OpenStackProvider.model_validate({**provider(pool([label])), "pass-environment": [VARIABLE]})


async def test_openstack_driver_reaches_gold_in_a_process_of_its_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The checks kill the driver at any moment, on a cloud whose lists are stale, with any answer of Nova and any
    fault of its hosts.
    """
    config, plugin = config_of("plain"), isolated(PLUGIN)
    command = Command(
        PLUGIN.name,
        (sys.executable, "-m", "nodelaunch.sdk", PLUGIN.name),
        environment=(*PYTHON_ENVIRONMENT, VARIABLE),
    )
    content = {**provider(pool(["plain"])), "pass-environment": [VARIABLE]}
    with Proxy(lab.endpoint("compute")) as proxy:
        monkeypatch.setenv(VARIABLE, str(lab.clouds_with({"compute_endpoint_override": proxy.url}, tmp_path)))
        subject = replace(
            subject_of(lab, "plain", proxy),
            open=lambda: plugin.open(config, DriverContext(NoScanner())),
            program=DriverProgram(command, content),
        )
        async with asyncio.timeout(DEADLINE_S):
            report = await run(subject)
    assert report.level is Level.GOLD, str(report)
    assert report.leftovers == ()
    assert await asyncio.to_thread(lab.found) == Found()


async def test_trace_is_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(lab.clouds))
    config = config_of("plain")
    traces = []
    async with asyncio.timeout(DEADLINE_S):
        for plugin in (PLUGIN, isolated(PLUGIN)):
            driver = plugin.open(config, DriverContext(NoScanner()))
            traces.append(await trace_of(driver, "main", "plain", provider=config.name))
    assert traces[0] == traces[1]
    assert await asyncio.to_thread(lab.found) == Found()
