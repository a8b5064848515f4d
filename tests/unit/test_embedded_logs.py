"""Target of the log in a foreign program."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOST = """
import logging
{set_up}
from nodelaunch.log import get_logger
log = get_logger("nodelaunch.engine.serve.pool").bind(provider="cloud")
log.info("pool_registered", pool="main pool")
log.warning("launch_failed", attempt=2)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("handler_failed")
"""


def printed(set_up: str = "") -> str:
    """Return the output of a host with *set_up*."""
    done = subprocess.run(
        [sys.executable, "-c", HOST.format(set_up=set_up)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def test_nothing_is_printed_where_nothing_is_set_up() -> None:
    assert printed() == ""


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_python_logging_of_the_host_is_used(level: str) -> None:
    out = printed(f'logging.basicConfig(level="{level}", format="%(levelname)s %(name)s %(message)s %(facts)s")')
    lines = out.splitlines()
    first = "INFO nodelaunch.engine.serve.pool pool_registered pool='main pool' provider=cloud"
    assert (f"{first} {{'provider': 'cloud', 'pool': 'main pool'}}" in lines) is (level == "INFO")
    assert "WARNING nodelaunch.engine.serve.pool launch_failed attempt=2 provider=cloud" in out
    assert "ZeroDivisionError: division by zero" in out


def test_records_name_the_line_that_logs() -> None:
    out = printed('logging.basicConfig(level="INFO", format="%(pathname)s:%(lineno)d %(message)s")')
    assert [line.split()[0] for line in out.splitlines() if line.startswith("<string>")] == [
        "<string>:6", "<string>:7", "<string>:11",
    ]  # fmt: skip


def test_structlog_of_the_host_is_used() -> None:
    set_up = "import structlog; structlog.configure(processors=[structlog.processors.KeyValueRenderer()])"
    assert "provider='cloud' pool='main pool' event='pool_registered'" in printed(set_up)
