"""Levels have an order; the outcome of a driver's last check is found again for the same digest, else not."""

from __future__ import annotations

import json
import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from nodelaunch.conformance.levels import LEVELS, Level
from nodelaunch.conformance.remembered import folder, remember, remembered


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_levels_are_ordered_by_what_they_ask_for() -> None:
    assert sorted(Level, reverse=True) == [Level.GOLD, Level.SILVER, Level.BRONZE, Level.NONE]
    assert (Level.NONE, *LEVELS) == tuple(Level)
    assert Level.GOLD > Level.SILVER >= Level.SILVER > Level.BRONZE > Level.NONE <= Level.NONE
    assert max(Level.SILVER, Level.GOLD) is Level.GOLD


def test_outcome_is_found_again_by_how_the_driver_was_run(state: Path) -> None:
    path = remember("fake", "aa", "inline", Level.SILVER, waived=2)
    assert path == state / "nodelaunch" / "driver-reports" / "aa.json"
    assert [each.name for each in path.parent.iterdir()] == ["aa.json"]
    remember("./nodelaunch-driver-fake", "aa", "process", Level.GOLD)
    assert remembered("aa") == {"inline": Level.SILVER, "process": Level.GOLD}
    content = json.loads(path.read_text())
    assert (content["levels"]["inline"]["level"], content["levels"]["inline"]["waived"]) == ("silver", 2)


def test_newer_outcome_goes_in_place_of_the_one_before() -> None:
    remember("fake", "aa", "inline", Level.GOLD)
    remember("fake", "aa", "inline", Level.NONE)
    remember("fake", "bb", "inline", Level.BRONZE)
    assert remembered("aa") == {"inline": Level.NONE}
    assert remembered("bb") == {"inline": Level.BRONZE}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b"\xff", b'{"format": 1}', b"7", b'{"format": 2, "digest": "aa", "levels": 3}',
        b'{"format": 2, "digest": "aa", "levels": {"inline": {"level": "platinum"}}}',
        b'{"format": 2, "digest": "bb", "levels": {}}',
    ],
)  # fmt: skip
def test_file_that_is_no_report_says_nothing(content: bytes) -> None:
    remember("fake", "aa", "inline", Level.GOLD).write_bytes(content)
    assert remembered("aa") == {}


def test_driver_that_was_never_checked_has_no_level() -> None:
    assert remembered("aa") == {}


@pytest.mark.parametrize("digest", ["/opt/x", "..", "a b", "../x", ""])
def test_any_digest_stays_in_the_folder(digest: str) -> None:
    path = remember("x", digest, "inline", Level.BRONZE)
    assert path.parent == folder()
    assert remembered(digest) == {"inline": Level.BRONZE}


def test_state_folder_that_is_no_absolute_path_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert folder() == Path.home() / ".local/state/nodelaunch/driver-reports"


def test_user_without_a_home_has_no_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """``nodelaunch driver list`` works for such a user, too."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", _no_such_user)
    assert folder() == Path("/var/lib/nodelaunch/driver-reports")
    assert remembered("aa") == {}


def _no_such_user(uid: int) -> NoReturn:
    raise KeyError(uid)
