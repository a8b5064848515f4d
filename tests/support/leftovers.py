"""A plugin for pytest: what a test that failed has started does not outlive it.

A test ends its processes itself. One that fails half way, or runs out of time, may not get to it; what it leaves would
hold ports, files and memory that the tests after it need, or keep a runner waiting for its output.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from contextlib import suppress

import pytest

from support.processes import descendants_of

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _ended_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up after what lasts for longer than one test, and torn down last."""
    before = descendants_of(os.getpid())
    yield
    if request.node.stash.get(_FAILED, False):
        for pid in descendants_of(os.getpid()) - before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
