"""A store that reports a lost session while it still counts as connected: the launcher does not retry in a loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodelaunch.errors import SessionLostError
from nodelaunch.protocol import paths
from nodelaunch.protocol.store import Entry
from support.launchers import running

pytestmark = pytest.mark.looptime

MOST_TRIES = 100
"""Limit for attempts in a minute."""


async def test_pool_registers_again_after_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as site:
        store, tries = site.launcher.store, 0
        create = store.create

        async def refusing(path: str, *given: object, **named: object) -> Entry:
            nonlocal tries
            tries += path.startswith(paths.POOLS)
            if tries > MOST_TRIES:
                await asyncio.sleep(1e6)
            raise SessionLostError(detail="so it seems")

        with monkeypatch.context() as patched:
            patched.setattr(store, "create", refusing)
            for seen in list(site.view.pools.values()):
                await site.client.store.delete(seen.path)
            await asyncio.sleep(60)
        assert 0 < tries <= MOST_TRIES
        assert store.create == create
        await site.job("small")
