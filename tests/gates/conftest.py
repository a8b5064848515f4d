"""A server for all gates, with its compiler warm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.launchers import Setup, floor
from bench.loads import Closed
from bench.runner import run_case
from bench.scenarios import Case
from bench.zk.server import BenchServer, running
from support import zookeeper

WARM_UP = Case("warm-up", Setup(), Closed(100, 1000, 20))


@pytest.fixture(scope="session", name="server")
def server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchServer]:
    if reason := zookeeper.why_not():
        pytest.skip(reason)
    folder = Path(tmp_path_factory.mktemp("bench"))
    with running(folder) as server:
        row = asyncio.run(run_case(server, floor(), WARM_UP, folder))
        assert "error" not in row, row
        yield server
