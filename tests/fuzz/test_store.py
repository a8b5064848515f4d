"""The simulated store keeps the port's promises, so that what a simulation finds is not the store's fault."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from conformance.store_suite import StoreContract
from fuzz.store import SimServer, SimStore
from support.launchers import LoopClock

pytestmark = pytest.mark.looptime


@pytest.fixture
def server() -> SimServer:
    return SimServer(random.Random(1), LoopClock().now)


@pytest.fixture
async def store(server: SimServer) -> AsyncIterator[SimStore]:
    delays = random.Random(2)
    async with server.connect("one", lambda: delays.uniform(0.0, 0.02)) as opened:
        yield opened


@pytest.fixture
async def other(server: SimServer) -> AsyncIterator[SimStore]:
    delays = random.Random(3)
    async with server.connect("other", lambda: delays.uniform(0.0, 0.02)) as opened:
        yield opened


class TestSimStore(StoreContract):
    pass
