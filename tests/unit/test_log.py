"""The log has one form, whoever logs."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from nodelaunch import log


@pytest.fixture(autouse=True)
def _root_logger_stays() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.basicConfig(handlers=handlers, level=level, force=True)


@pytest.fixture
def written() -> io.StringIO:
    stream = io.StringIO()
    log.configure(as_json=True, stream=stream)
    return stream


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        yield stream


def test_what_libraries_log_is_in_the_same_form(written: io.StringIO) -> None:
    logging.getLogger("some.library").warning("could not reach %s", "it")
    (line,) = written.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["level"]) == ("library", "warning")
    assert (entry["logger"], entry["detail"]) == ("some.library", "could not reach it")


def test_what_libraries_log_for_their_makers_is_left_out(written: io.StringIO) -> None:
    logging.getLogger("some.library").info("details")
    assert written.getvalue() == ""


def test_fault_of_a_library_comes_with_its_traceback(written: io.StringIO) -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("some.library").exception("it failed")
    entry = json.loads(written.getvalue())
    assert "ValueError: wrong" in entry["exception"]


def test_lines_that_nobody_reads_are_dropped(unread: TextIO) -> None:
    log.configure(stream=unread)
    for _ in range(3):
        structlog.get_logger().warning("event", detail="x" * 10_000)
    logging.getLogger("some.library").warning("could not reach it")
    unread.flush()


def test_lines_to_a_full_disk_are_dropped() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, io.TextIOWrapper(full, write_through=True) as stream:
        log.configure(stream=stream)
        structlog.get_logger().warning("event")


def test_lines_to_a_closed_stream_are_dropped(written: io.StringIO) -> None:
    written.close()
    structlog.get_logger().warning("event")


@pytest.mark.parametrize("method", ["debug", "info", "warning", "error", "exception", "critical"])
def test_line_is_written_at_each_level(method: str) -> None:
    stream = io.StringIO()
    log.configure(level="debug", stream=stream)
    getattr(structlog.get_logger(), method)("event", key="value")
    assert stream.getvalue().endswith("key=value\n")
