"""Arguments of a client's request that are refused."""

from __future__ import annotations

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.protocol import paths
from nodelaunch.store.embedded.store import EmbeddedStore


async def test_labels_are_a_list() -> None:
    async with EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        async with store.connect() as session, NodeClient(session) as client:
            with pytest.raises(TypeError, match=r"as in \['small'\], not a text"):
                await client.submit("small")
            with pytest.raises(TypeError, match="there is no option priorty of a request; there are: priority, "):
                await client.submit(["small"], priorty="100")
            with pytest.raises(TypeError, match="tenant of a request: a text is expected, not 5"):
                await client.submit(["small"], tenant=5)
            assert await store.children(paths.REQUESTS) == []
            with pytest.raises(ValueError, match="at least one label"):
                await client.submit([])
