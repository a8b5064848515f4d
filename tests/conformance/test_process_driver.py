"""A driver keeps every rule in a process of its own as it does within the launcher's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.conformance import Subject, run
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.process.plugin import isolated
from nodelaunch.protocol.driver import DriverContext
from support.fakeclouds import NoScanner, fake_provider, fake_subject

DEADLINE_S = 300.0


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[FakeCloud]:
    cloud = FakeCloud(tmp_path / "cloud.sqlite", patience_s=10)
    yield cloud
    cloud.close()


def isolated_subject(cloud: FakeCloud) -> Subject:
    """As `fake_subject`, each driver in a process."""
    plugin = isolated(DriverRegistry().get("fake"))
    config = fake_provider(cloud_file=str(cloud.path))
    return replace(fake_subject(cloud), open=lambda: plugin.open(config, DriverContext(NoScanner())))


async def test_verdicts_are_the_same_inline_and_as_process(cloud: FakeCloud) -> None:
    async with asyncio.timeout(DEADLINE_S):
        inline = await run(fake_subject(cloud))
        process = await run(isolated_subject(cloud))
    assert process.ok, str(process)
    assert process.results == inline.results
    assert cloud.servers() == []
