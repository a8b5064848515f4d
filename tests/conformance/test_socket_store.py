"""The embedded store keeps the port's promises through its socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.store_suite import StoreContract
from nodelaunch.store.embedded.socket import SocketStore, StoreServer
from nodelaunch.store.embedded.store import EmbeddedStore


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Path]:
    async with EmbeddedStore(None) as owner, StoreServer(owner, tmp_path / "store.sock"):
        yield tmp_path / "store.sock"


@pytest.fixture
async def store(server: Path) -> AsyncIterator[SocketStore]:
    async with SocketStore(server) as opened:
        yield opened


@pytest.fixture
async def other(server: Path) -> AsyncIterator[SocketStore]:
    async with SocketStore(server) as opened:
        yield opened


class TestSocketStore(StoreContract):
    pass
