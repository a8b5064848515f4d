"""A record of another program among the answers to a question is no answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from nodelaunch.cli.explain import _pool_lines
from nodelaunch.engine.reporting.explainrpc import Answers, ask
from nodelaunch.protocol import paths
from nodelaunch.store.embedded.store import EmbeddedStore

REASON = {"kind": "NoRoom", "text": "no room", "remedy": "make room", "facts": {}}
EVENT = {"at": 1.0, "what": "deferred", "reasons": [REASON]}
WHOLE: dict[str, Any] = {
    "pool_id": "here-cloud", "provider": "cloud", "pool": "main", "status": "deferred",
    "reasons": [REASON], "nodes": ["small: booting"], "history": [EVENT], "asked": None,
}  # fmt: skip


@pytest.mark.parametrize("said", [b"", b"{", b"[" * 100_000, b"[1]", b'{"pools": 1}', b'{"pools": [1]}', b"\xff"])
async def test_unreadable_answer_is_none(said: bytes) -> None:
    async with asyncio.timeout(10), EmbeddedStore(None).connect() as store:
        await store.ensure(paths.QUESTIONS)
        asking = asyncio.create_task(ask(store, paths.RequestId("200-0000000001"), ["odd", "right"]))
        while not (questions := await store.children(paths.QUESTIONS)):
            await asyncio.sleep(0)
        await store.create(f"{paths.QUESTIONS}/{questions[0]}/odd", said)
        await store.create(f"{paths.QUESTIONS}/{questions[0]}/right", json.dumps({"pools": [WHOLE]}).encode())
        assert await asking == Answers([{**WHOLE, "launcher": "right"}], ["odd"])


@pytest.mark.parametrize(
    "said",
    [
        {"provider": "cloud", "pool": "main", "status": "deferred"},
        {**WHOLE, "zone": {"a": 1}, "reasons": [{**REASON, "url": "x"}], "history": [{**EVENT, "by": "somebody"}]},
        {**WHOLE, "reasons": [{}, 1], "nodes": [None], "history": [{}, {"at": "noon"}, {"at": 1e300}]},
        {**WHOLE, "status": None, "reasons": {}, "nodes": "none", "history": None},
    ],
)
async def test_answer_of_another_version_is_shown_as_far_as_it_is_understood(said: dict[str, Any]) -> None:
    """The answer may lack new fields, and have unknown ones, which are passed on unchanged."""
    async with asyncio.timeout(10), EmbeddedStore(None).connect() as store:
        await store.ensure(paths.QUESTIONS)
        asking = asyncio.create_task(ask(store, paths.RequestId("200-0000000001"), ["other"]))
        while not (questions := await store.children(paths.QUESTIONS)):
            await asyncio.sleep(0)
        await store.create(f"{paths.QUESTIONS}/{questions[0]}/other", json.dumps({"pools": [said]}).encode())
        (pool,) = (await asking).pools
    assert _pool_lines(pool)[0].startswith("cloud/main: ")
    assert pool.keys() >= said.keys() | WHOLE.keys()
    assert pool.get("zone") == said.get("zone")
