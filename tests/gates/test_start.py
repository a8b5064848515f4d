"""Number of operations that a launcher needs to read a large site."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.launchers import LABEL, Setup, nodelaunch
from bench.subject import opened
from bench.zk.server import BenchServer

pytestmark = pytest.mark.gate

NODES = REQUESTS = 2000
MOST_PER_RECORD = 1.05
MOST_PER_POOL = 4
"""A pool is registered, stored, and announced once more when its provider answers."""
POOLS = 50
TIMEOUT_S = 60.0


async def test_start_reads_each_record_once(server: BenchServer, tmp_path: Path) -> None:
    """The count ends when the first request, which existed before, is fulfilled."""
    setup = Setup(pools=POOLS, foreign_nodes=NODES, foreign_requests=REQUESTS)
    async with opened(server, nodelaunch(), setup, tmp_path, first_request=LABEL, settle_s=0.0) as subject:
        assert await subject.until(lambda: bool(subject.zuul.record.fulfilled_at), TIMEOUT_S)
        operations = subject.sample().received
    most = MOST_PER_RECORD * (NODES + REQUESTS) + MOST_PER_POOL * POOLS
    assert operations <= most, f"{operations / (NODES + REQUESTS):.2f} a record"
