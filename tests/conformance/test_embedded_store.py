"""The embedded store keeps the port's promises, in memory and in a file, on a quick disk and on a slow one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.store_suite import StoreContract
from nodelaunch.protocol.store import Changed, Create, Entry, Put, Store, TakeLock, TreeEvent
from nodelaunch.store.embedded import journal
from nodelaunch.store.embedded.store import EmbeddedStore


@pytest.fixture(params=["memory", "file", "slow file"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EmbeddedStore]:
    """Return a store that writes its file either on the event loop or, as for a slow disk, in a thread."""
    monkeypatch.setattr(journal, "LOOP_CAP_S", 0.0 if request.param == "slow file" else 60.0)
    monkeypatch.setattr(journal, "RETRY_EVERY", 1 << 30)
    async with EmbeddedStore(None if request.param == "memory" else tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
async def other(store: EmbeddedStore) -> AsyncIterator[Store]:
    async with store.connect() as session:
        yield session


class TestEmbeddedStore(StoreContract):
    async def test_what_data_was_made_from_is_handed_on(self, store: EmbeddedStore, other: Store) -> None:
        first, second = object(), object()
        await store.ensure("/t")
        events: list[TreeEvent] = []
        async with other.tree("/t") as tree:
            tree.subscribe(events.append)
            _, made = await store.commit([TakeLock("/t/lock"), Create("/t/n", b"1", record=first)])
            (put,) = await store.commit([Put("/t/n", b"2", record=second)])
            assert isinstance(made, Entry)
            assert isinstance(put, Entry)
            assert (made.record, put.record) == (first, second)
            told = [event.entry.record for event in events if isinstance(event, Changed) and event.entry.path == "/t/n"]
            assert told == [first, second]
            assert (await other.get("/t/n")).record is second
