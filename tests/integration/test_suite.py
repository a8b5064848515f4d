"""The suite itself: a test that hangs fails in time, and what it started ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import running

HANGING = """
import asyncio, subprocess

async def test_hangs():
    process = subprocess.Popen(["sh", "-c", "trap '' TERM INT; sleep 1000 & wait; sleep 1000", "{mark}"])
    try:
        await asyncio.Event().wait()
    finally:
        process.returncode = 0  # nobody waits for it

def test_goes_on():
    pass
"""
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("options", [(), ("--numprocesses", "1")], ids=["here", "in a worker"])
def test_hanging_test_fails_in_time_and_leaves_no_process(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING.format(mark=tmp_path))
    plugins = ("-p", "support.leftovers", "-o", "asyncio_mode=auto", "-o", "timeout=1", "--rootdir", str(tmp_path))
    command = [sys.executable, "-m", "pytest", *plugins, *options, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "Timeout" in done.stdout
    assert not running(str(tmp_path))


def test_every_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    assert 0 < float(request.config.getini("timeout")) <= 600
