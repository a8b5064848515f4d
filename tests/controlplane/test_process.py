"""The OpenStack driver in a process of its own keeps the same rules, and answers the same, as in the launcher's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from test_conformance import subject_of

from nodelaunch.drivers.conformance import run
from nodelaunch.drivers.openstack import PLUGIN
from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.drivers.process.plugin import isolated
from nodelaunch.protocol.driver import DriverContext
from support.fakeclouds import NoScanner
from support.openstack import Found, Lab, pool, provider
from support.traces import trace_of

pytestmark = pytest.mark.openstack

DEADLINE_S = 1800.0
VARIABLE = "OS_CLIENT_CONFIG_FILE"
"""Where openstacksdk finds clouds.yaml; a process gets it by ``pass-environment``."""


def config_of(label: str) -> OpenStackProvider:
    return OpenStackProvider.model_validate({**provider(pool([label])), "pass-environment": [VARIABLE]})


async def test_openstack_driver_keeps_every_rule_in_a_process_of_its_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(lab.clouds))
    config, plugin = config_of("plain"), isolated(PLUGIN)
    subject = replace(subject_of(lab, "plain"), open=lambda: plugin.open(config, DriverContext(NoScanner())))
    async with asyncio.timeout(DEADLINE_S):
        report = await run(subject)
    assert report.ok, str(report)
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
