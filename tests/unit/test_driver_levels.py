"""Levels have an order; the outcome of a driver's last check is found again for the same digest, else not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodelaunch.drivers.conformance.levels import LEVELS, Level
from nodelaunch.drivers.conformance.remembered import folder, remember, remembered


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_levels_are_ordered_by_what_they_ask_for() -> None:
    assert sorted(Level, reverse=True) == [Level.GOLD, Level.SILVER, Level.BRONZE, Level.NONE]
    assert (Level.NONE, *LEVELS) == tuple(Level)
    assert Level.GOLD > Level.SILVER >= Level.SILVER > Level.BRONZE > Level.NONE <= Level.NONE
    assert max(Level.SILVER, Level.GOLD) is Level.GOLD


def test_outcome_is_found_again(state: Path) -> None:
    path = remember("fake", "sha256:aa", Level.SILVER, waived=2, details={"contract": 1})
    assert path == state / "nodelaunch" / "driver-reports" / "fake.json"
    assert [each.name for each in path.parent.iterdir()] == ["fake.json"]
    assert remembered("fake", "sha256:aa") is Level.SILVER
    content = json.loads(path.read_text())
    assert (content["level"], content["waived"], content["contract"]) == ("silver", 2, 1)


def test_newer_outcome_goes_in_place_of_the_one_before() -> None:
    remember("fake", "sha256:aa", Level.GOLD)
    remember("fake", "sha256:bb", Level.NONE)
    assert remembered("fake", "sha256:aa") is None
    assert remembered("fake", "sha256:bb") is Level.NONE


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"format": 1}', b"7", b'{"format": 2, "level": 3}'])
def test_file_that_is_no_report_says_nothing(content: bytes) -> None:
    remember("fake", "sha256:aa", Level.GOLD).write_bytes(content)
    assert remembered("fake", "sha256:aa") is None


def test_driver_that_was_never_checked_has_no_level() -> None:
    assert remembered("fake", "sha256:aa") is None


@pytest.mark.parametrize("name", ["/opt/x/nodelaunch-driver-x", "..", "a b", "../x"])
def test_any_name_stays_in_the_folder(name: str) -> None:
    path = remember(name, "sha256:aa", Level.BRONZE)
    assert path.parent == folder()
    assert remembered(name, "sha256:aa") is Level.BRONZE


def test_state_folder_that_is_no_absolute_path_is_ignored() -> None:
    assert folder({"XDG_STATE_HOME": "relative"}) == Path.home() / ".local/state/nodelaunch/driver-reports"
