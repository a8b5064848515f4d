"""Number of function calls that a launcher makes for a request, counted by cProfile in its process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench import profiled
from bench.launchers import Setup
from bench.launchers import profiled as profiled_launcher
from bench.loads import Burst
from bench.subject import opened
from bench.zk.server import BenchServer

pytestmark = pytest.mark.gate

REQUESTS = 300
MOST_CALLS = 2000
"""Limit for calls of functions written in Python."""
MOST_CALLS_IN_ALL = 3800
"""Limit that includes functions written in C, of which most cost less."""
TIMEOUT_S = 60.0


async def test_burst_takes_few_calls_for_each_request(server: BenchServer, tmp_path: Path) -> None:
    output = tmp_path / "calls.profile"
    async with opened(server, profiled_launcher(output), Setup(), tmp_path) as subject:
        subject.processes[0].signal(profiled.TOGGLE)
        assert await subject.until(profiled.marker(output).exists, TIMEOUT_S)
        figures = await Burst(REQUESTS, timeout_s=TIMEOUT_S).run(subject)
        subject.processes[0].signal(profiled.TOGGLE)
        assert await subject.until(output.exists, TIMEOUT_S)
    assert figures["finished"] == REQUESTS
    assert not figures["errors"], figures["first_errors"]
    calls = await asyncio.to_thread(profiled.python_calls, output)
    in_all = await asyncio.to_thread(profiled.calls, output)
    busiest = "\n".join(f"{count / REQUESTS:8.1f} {where}" for count, where in profiled.busiest(output, 25))
    what = f"{calls / REQUESTS:.0f} calls a request, {in_all / REQUESTS:.0f} with those in C\n{busiest}"
    assert calls <= MOST_CALLS * REQUESTS, what
    assert in_all <= MOST_CALLS_IN_ALL * REQUESTS, what
