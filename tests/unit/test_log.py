"""The log has one form, whoever logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from nodelaunch import log


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    handlers, level = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()
    log.configure(as_json=True, stream=stream)
    yield stream
    logging.basicConfig(handlers=handlers, level=level, force=True)


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
