"""A driver that prints its secrets: they are shown neither in logs nor in errors."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from nodelaunch.driverhost.process.child import Command
from nodelaunch.driverhost.process.plugin import executable_plugin
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import DriverContext
from support.fakeclouds import NoScanner
from support.processes import EXAMPLES

DEADLINE_S = 60.0
PASSWORD, TOKEN = "hunter2-hunter2", "token-of-the-environment"
TALKATIVE = f"""
import os, sys
sys.path.insert(0, {str(EXAMPLES)!r})
import nodelaunch_driver as sdk

class Talkative(sdk.Driver):
    name = "talkative"
    schemas = {{"provider": {{"properties": {{"password": {{"type": "string", "writeOnly": True}}}}}}}}

    def secrets(self):
        return self.config["password"] + " " + os.environ["CLOUD_TOKEN"]

    def limits(self):
        print("printed", self.secrets(), flush=True)
        print("warned", self.secrets(), file=sys.stderr, flush=True)
        self.log("logged " + self.secrets(), nested=[{{"key": self.secrets()}}])
        raise sdk.DriverError("transient", "refused " + self.secrets(), scope="provider")

    def usage(self, pool, label):
        os.write(sdk._call.link.connection.fileno(), ("garbage " + self.secrets() + "\\n").encode())
        return {{}}

    def ready(self, pool, label):
        print("dying", self.secrets(), flush=True)
        os._exit(3)

sdk.serve(Talkative())
"""


@pytest.fixture
def entries() -> list[MutableMapping[str, Any]]:
    """Return the log entries of the test."""
    taken: list[MutableMapping[str, Any]] = []

    def take(_logger: Any, method: str, entry: MutableMapping[str, Any]) -> str:
        taken.append({**entry, "level": method})
        raise structlog.DropEvent

    structlog.configure(processors=[take], wrapper_class=structlog.make_filtering_bound_logger(0))
    return taken


async def test_secrets_that_a_driver_says_are_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: list[MutableMapping[str, Any]]
) -> None:
    monkeypatch.setenv("CLOUD_TOKEN", TOKEN)
    script = tmp_path / "talkative.py"
    script.write_text(TALKATIVE)
    plugin = await asyncio.to_thread(executable_plugin, Command("talkative", (sys.executable, str(script))))
    config = plugin.config_model.model_validate({
        "name": "cloud", "driver": "talkative", "password": PASSWORD, "pass-environment": ["CLOUD_TOKEN"],
        "pools": [{"name": "main", "labels": [{"name": "small"}]}],
    })  # fmt: skip
    errors: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        for call in ("quota_limits", "quota_for_label", "label_ready", "quota_limits"):
            driver = plugin.open(config, DriverContext(NoScanner()))
            arguments = () if call == "quota_limits" else ("main", "small")
            with pytest.raises(DriverError) as caught:
                await getattr(driver, call)(*arguments)
            errors.append(str(caught.value))
            await driver.aclose()
    shown = json.dumps([*entries, *errors], default=str)
    assert PASSWORD not in shown
    assert TOKEN not in shown
    for word in ("printed", "warned", "logged", "refused", "garbage", "dying"):
        assert f"{word} *** ***" in shown, word
