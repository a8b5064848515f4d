"""A log that is set up with its first line: most commands have none."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, sys
from nodelaunch import log
log.configure(level="{level}", as_json=True, is_late=True)
{before}
logger = log.get_logger("nodelaunch.client.nodes").bind(request_id="1")
logger.info("connected")
logging.getLogger("some.library").info("details")
print("structlog" in sys.modules)
{then}
"""


def run(then: str = "", *, level: str = "warning", before: str = "") -> tuple[str, list[dict[str, object]]]:
    """Return whether structlog is loaded after a line that is not logged at *level*, and all that is logged in the
    end.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(level=level, before=before, then=then)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip(), [json.loads(line) for line in done.stderr.splitlines()]


def test_what_is_not_logged_imports_nothing() -> None:
    assert run() == ("False", [])


def test_first_line_has_the_form_of_the_log() -> None:
    _, (line,) = run('logger.warning("session_lost", attempt=2)')
    assert line.pop("timestamp")
    assert line == {"event": "session_lost", "level": "warning", "request_id": "1", "attempt": 2}


def test_first_line_may_be_a_librarys() -> None:
    _, (line,) = run('logging.getLogger("some.library").warning("could not reach it")')
    assert (line["event"], line["detail"]) == ("library", "could not reach it")


def test_level_is_the_one_asked_for() -> None:
    imported, (line,) = run(level="info")
    assert (imported, line["event"]) == ("True", "connected")


def test_what_others_have_set_up_stays() -> None:
    before = """
import structlog
structlog.configure(
    processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(sys.stderr)
)"""
    _, lines = run('logger.warning("session_lost")', before=before)
    assert lines[-1] == {"request_id": "1", "event": "session_lost"}
