"""Process 1: it starts a child that does the work, and passes on how the child ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from nodelaunch.cli.init import run_as_child
def work():
    {work}
sys.exit(run_as_child(work))
"""


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        ("return 3", 3, ""),
        ("sys.exit(2)", 2, ""),
        ("os.kill(os.getpid(), 9)", 137, ""),
        ("raise ZeroDivisionError('boom')", 1, "ZeroDivisionError: boom"),
    ],
)
def test_end_of_the_work_is_told(work: str, code: int, said: str) -> None:
    program = PROGRAM.format(work=work)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert bool(said) == bool(done.stderr)
