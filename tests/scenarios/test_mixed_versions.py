"""A launcher beside another of a version that says more of itself, or less: its records are understood, and kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.decisions.answers import TURN_S
from nodelaunch.engine.limits.sharing import ACKNOWLEDGED_S
from nodelaunch.protocol import paths
from support.launchers import Running, running

pytestmark = pytest.mark.looptime

OTHER_ID = "0" * 32
PRESENCE = {"id": OTHER_ID, "hostname": "there"}
"""Presence of a process of the first version."""
REGISTRATION = {
    "hostname": "there", "kind": "pool", "model_api": 0, "state": "running", "version": "0.0", "id": "there-pool",
    "name": "main", "provider_name": "cloud", "supported_labels": ["small"], "priority": 100, "paused": False,
}  # fmt: skip
NEWS = {"motto": "ever upward", "weights": {"small": [1, None]}, "version": "99.0"}
"""Fields that some later version may add."""


@asynccontextmanager
async def another(site: Running, presence: dict[str, Any], registration: dict[str, Any]) -> AsyncIterator[None]:
    """A process that shares the provider, as far as its records tell; it never serves anything."""
    async with site.store.connect() as session:
        body = json.dumps({**registration}).encode()
        await session.create(f"{paths.POOLS}/there", body, ephemeral=True, sequence=True)
        body = json.dumps({"pools": [registration["id"]], **presence}).encode()
        await session.create(f"{paths.PRESENCES}/there", body, ephemeral=True, sequence=True)
        await site.until(lambda: len(site.view.launchers) == 2)
        yield


def own_id(site: Running) -> str:
    return next(seen.record.id for seen in site.view.presences.values() if seen.record.hostname == "here")


async def test_records_of_a_later_version_are_understood(tmp_path: Path) -> None:
    """Additional fields are ignored; a process that knows of us is not waited for."""
    async with running(tmp_path, boot_time=0) as site:
        presence = {**PRESENCE, "knows": [own_id(site)], **NEWS}
        async with another(site, presence, {**REGISTRATION, **NEWS}):
            assert not site.view.unreadable
            began = asyncio.get_running_loop().time()
            await site.job("small")
            assert asyncio.get_running_loop().time() - began < TURN_S + 1.0


async def test_records_of_an_earlier_version_are_understood(tmp_path: Path) -> None:
    """The process does not say that it knows of us: it is waited for, once."""
    async with running(tmp_path, boot_time=0) as site, another(site, PRESENCE, REGISTRATION):
        assert not site.view.unreadable
        began = asyncio.get_running_loop().time()
        for _ in range(4):
            await site.job("small")
        assert asyncio.get_running_loop().time() - began < ACKNOWLEDGED_S + TURN_S + 1.0


async def test_a_known_pool_keeps_what_a_later_version_wrote_besides(tmp_path: Path) -> None:
    path = paths.known_pool("cloud", "main")
    async with running(tmp_path) as site:
        await site.until(lambda: ("cloud", "main") in site.view.known_pools)
        body = json.dumps({"labels": ["none of ours"], **NEWS}).encode()
        await site.client.store.put(path, body)
        await site.until(lambda: site.view.known_pools["cloud", "main"].record.labels == ("none of ours",))
        async with another(site, PRESENCE, REGISTRATION):  # pools changed: what they offer is compared
            await site.until(lambda: site.view.known_pools["cloud", "main"].record.labels == ("big", "small"))
        assert json.loads((await site.client.store.get(path)).data) == {"labels": ["big", "small"], **NEWS}
