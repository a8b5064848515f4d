"""The log has one form for all loggers."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from nodelaunch import log


class Shade(StrEnum):
    RED = "red"


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
    """Yield a pipe without a reader."""
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


PLAIN = re.compile(r"""[^\s="']*""").fullmatch
VALUES = st.one_of(
    st.text(), st.text("az =\"'\n\u00a0\x1f", max_size=4), st.integers(), st.floats(), st.booleans(), st.none(),
    st.lists(st.text("a ", max_size=2), max_size=2), st.sampled_from(Shade),
)  # fmt: skip


@given(
    st.dictionaries(st.text(st.characters(categories=["Ll"], include_characters="_%"), min_size=1), VALUES, max_size=5)
)
def test_facts_are_written_by_key_and_quoted_where_they_need_it(facts: dict[str, Any]) -> None:
    facts = {f"k_{key}": value for key, value in facts.items()}
    stream = io.StringIO()
    log.configure(stream=stream)
    log.get_logger("nodelaunch.some").info("event", **facts)
    shown = [
        f"{key}={value if type(value) is str and PLAIN(value) else repr(value)}" for key, value in sorted(facts.items())
    ]
    assert stream.getvalue().partition(" ")[2] == " ".join([f"[info     ] {'event':<24}", *shown]) + "\n"


def test_who_captures_events_gets_them(written: io.StringIO) -> None:
    log.configure(stream=written)
    logger = log.get_logger("nodelaunch.some")
    with structlog.testing.capture_logs() as events:
        logger.info("captured", key=1)
    logger.info("written", key=2)
    assert events == [{"event": "captured", "key": 1, "log_level": "info"}]
    assert [line.split()[3:] for line in written.getvalue().splitlines()] == [["written", "key=2"]]


def test_who_configures_structlog_anew_gets_the_events(written: io.StringIO) -> None:
    log.configure(stream=written)
    own = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(own)
    )
    log.get_logger("nodelaunch.some").info("event", key=1)
    assert json.loads(own.getvalue()) == {"event": "event", "key": 1}
    assert written.getvalue() == ""


def test_lines_below_the_level_are_not_written(written: io.StringIO) -> None:
    log.configure(level="warning", stream=written)
    log.get_logger("nodelaunch.some").info("event")
    assert written.getvalue() == ""


def test_logged_exception_has_its_traceback_below_its_line(written: io.StringIO) -> None:
    log.configure(stream=written)
    try:
        raise ValueError("wrong")
    except ValueError:
        log.get_logger("nodelaunch.some").exception("it_failed", key=1)
    line, *traceback = written.getvalue().splitlines()
    assert line.endswith("[error    ] it_failed                key=1")
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == "ValueError: wrong"
