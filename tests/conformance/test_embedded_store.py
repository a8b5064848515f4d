"""The embedded store keeps the port's promises, in memory and in a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.store_suite import StoreContract
from nodelaunch.protocol.store import Store
from nodelaunch.store.embedded import EmbeddedStore


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(tmp_path / "store.sqlite" if request.param == "file" else None) as opened:
        yield opened


@pytest.fixture
async def other(store: EmbeddedStore) -> AsyncIterator[Store]:
    async with store.connect() as session:
        yield session


class TestEmbeddedStore(StoreContract):
    pass
