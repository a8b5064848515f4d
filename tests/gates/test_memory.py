"""Memory of a launcher: idle, beside a large site, and after many requests. All over ZooKeeper with TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.launchers import Setup, nodelaunch
from bench.loads import Lives
from bench.runner import run_case
from bench.scenarios import Case
from bench.subject import opened
from bench.zk.server import BenchServer

pytestmark = pytest.mark.gate

MOST_IDLE_MIB = 60.0
MOST_BESIDE_MIB = 130.0
RECORDS = 10_000
"""Nodes of others, and as many finished requests."""
MOST_PER_LIFE = 600
"""Bytes that a request leaves behind. No object of Python stays; these are holes of the allocator, which after so few
requests come to some 150 bytes each."""


async def rss_mib(setup: Setup, server: BenchServer, folder: Path) -> float:
    """Return the memory of a launcher that has registered its pools and come to rest."""
    async with opened(server, nodelaunch(), setup, folder) as subject:
        return subject.memory()["rss_mib"]


async def test_idle_launcher_is_small(server: BenchServer, tmp_path: Path) -> None:
    assert await rss_mib(Setup(), server, tmp_path) <= MOST_IDLE_MIB


async def test_launcher_beside_a_large_site_is_small(server: BenchServer, tmp_path: Path) -> None:
    setup = Setup(pools=50, foreign_nodes=RECORDS, foreign_requests=RECORDS)
    assert await rss_mib(setup, server, tmp_path) <= MOST_BESIDE_MIB


async def test_requests_leave_nothing_behind(server: BenchServer, tmp_path: Path) -> None:
    """The first requests, which fill caches and the allocator's pools, do not count."""
    case = Case("lives", Setup(), Lives(count=4000, warm_up=2000, seconds=60.0))
    figures: dict[str, Any] = await run_case(server, nodelaunch(), case, tmp_path)
    assert figures.get("requests") == 4000, figures
    assert figures["rss_growth_bytes_per_request"] <= MOST_PER_LIFE, figures
