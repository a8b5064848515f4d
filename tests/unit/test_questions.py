"""What somebody else writes among the answers to a question is no answer."""

from __future__ import annotations

import asyncio

import pytest

from nodelaunch.engine.questions import Answers, ask
from nodelaunch.protocol import paths
from nodelaunch.store.embedded import EmbeddedStore


@pytest.mark.parametrize("said", [b"", b"{", b"[" * 100_000, b"[1]", b'{"pools": 1}', b'{"pools": [1]}', b"\xff"])
async def test_unreadable_answer_is_none(said: bytes) -> None:
    async with asyncio.timeout(10), EmbeddedStore(None).connect() as store:
        await store.ensure(paths.QUESTIONS)
        asking = asyncio.create_task(ask(store, paths.RequestId("200-0000000001"), ["odd", "right"]))
        while not (questions := await store.children(paths.QUESTIONS)):
            await asyncio.sleep(0)
        await store.create(f"{paths.QUESTIONS}/{questions[0]}/odd", said)
        await store.create(f"{paths.QUESTIONS}/{questions[0]}/right", b'{"pools": [{"name": "main"}]}')
        assert await asking == Answers([{"name": "main"}], ["odd"])
