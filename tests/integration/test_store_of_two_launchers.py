"""Two launchers of one process on one embedded store, as the parameter ``store`` of `Launcher` has it."""

from __future__ import annotations

import asyncio

import pytest

from nodelaunch import Launcher, NodeClient
from nodelaunch.store.embedded.store import EmbeddedStore


def a_config(provider: str) -> dict[str, object]:
    label = {"name": provider, "cloud-image": "image", "min-ram": 8192}
    pool = {"name": "main", "labels": [label]}
    cloud = {"name": provider, "driver": "fake", "boot-time": 0, "cloud-images": [{"name": "image"}], "pools": [pool]}
    return {"labels": [{"name": provider}], "providers": [cloud]}


async def test_each_has_a_connection_and_one_goes_on_when_the_other_has_ended() -> None:
    async with (
        asyncio.timeout(60),
        EmbeddedStore(None) as store,
        Launcher(a_config("one"), store=store.connect()) as one,
        NodeClient(store) as client,
    ):
        running = asyncio.ensure_future(one.run())
        async with Launcher(a_config("two"), store=store.connect()) as two:
            also = asyncio.ensure_future(two.run())
            async with client.nodes(["one"]) as mine, client.nodes(["two"]) as others:
                assert (mine[0].provider, others[0].provider) == ("one", "two")
            also.cancel()
            await asyncio.gather(also, return_exceptions=True)
        async with client.nodes(["one"]) as (node,):
            assert node.provider == "one"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_store_that_is_open_already_is_refused_with_what_to_do() -> None:
    async with asyncio.timeout(60), Launcher(a_config("one"), store=EmbeddedStore(None)) as one:
        with pytest.raises(RuntimeError, match=r"this store is open already; connect\(\) gives another session"):
            async with Launcher(a_config("two"), store=one.store):
                pytest.fail("it was opened twice")
