"""Both ends of the wire keep to the golden transcripts, and the OpenRPC document is made from what they use."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nodelaunch.driverhost.process.child import Command
from nodelaunch.driverhost.process.driver import ProcessDriver
from nodelaunch.driverhost.process.supervisor import Restarts
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire import openrpc
from nodelaunch.driverhost.wire.cluster import CLUSTER_METHODS, CLUSTER_NOTES
from nodelaunch.drivers.test import PLUGIN
from nodelaunch.errors import InstanceNotFoundError
from nodelaunch.protocol.driver import DriverContext, Instance, LabelTraits
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, Usage
from support import replay_driver
from support.fakeclouds import NoScanner
from support.transcripts import FOLDER, PROVIDER, SCRIPTS, SPEC, record, recorded

DEADLINE_S = 60.0
DOCUMENT = Path(__file__).parents[2] / "docs" / "driver-contract.openrpc.json"


@pytest.mark.parametrize("name", SCRIPTS)
async def test_driver_side_answers_as_recorded(name: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await record(name) == recorded(name)


async def test_launcher_side_asks_as_recorded() -> None:
    config = PLUGIN.config_model.model_validate(PROVIDER)
    script = (sys.executable, replay_driver.__file__, str(FOLDER / "life.txt"))
    command = Command("test", script, environment=("PYTHONPATH",))
    driver = ProcessDriver(command, config, DriverContext(NoScanner()), restarts=Restarts(first_s=60.0))
    async with asyncio.timeout(DEADLINE_S):
        try:
            assert await driver.quota_limits() == NO_LIMITS
            assert await driver.quota_for_label("main", "small") == Usage({INSTANCES: 1})
            assert await driver.label_ready("main", "small")
            assert driver.label_traits("main", "small") == LabelTraits(host_key_checking=False)
            external_id = await driver.create_instance(SPEC)
            expected = Instance(external_id, SPEC.metadata, is_active=True, resources=Usage({INSTANCES: 1}))
            assert await driver.wait_until_active(external_id) == expected
            assert [instance async for instance in driver.list_instances()] == [replace(expected)]
            await driver.delete_instance(external_id)
            with pytest.raises(InstanceNotFoundError, match="no such instance") as caught:
                await driver.wait_until_active(external_id)
            assert (caught.value.provider, caught.value.external_id) == ("cloud", external_id)
        finally:
            await driver.aclose()


def test_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == openrpc.text(), f"python -m {openrpc.__name__} > docs/{DOCUMENT.name}"


def test_document_names_every_message_once() -> None:
    names = [method["name"] for method in json.loads(DOCUMENT.read_text())["methods"]]
    assert names == [*m.METHODS, *CLUSTER_METHODS, *m.NOTES, *CLUSTER_NOTES]


def test_every_method_is_in_a_transcript_or_behind_a_capability() -> None:
    said = {json.loads(line[2:]).get("method") for name in SCRIPTS for line in recorded(name)}
    assert {name for name, method in m.METHODS.items() if method.capability is None} <= said
