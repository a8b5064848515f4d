"""Output of commands without a configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.cli import session
from nodelaunch.cli.main import main

HINT = "name another file with -c FILE, or in NODELAUNCH_CONFIG"


@pytest.mark.parametrize("command", [["list"], ["serve"], ["config", "check"]])
def test_absent_default_file_has_no_position_and_the_way_out(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "nodepool.yaml"
    monkeypatch.delenv("NODELAUNCH_CONFIG", raising=False)
    monkeypatch.setattr(session, "DEFAULT_CONFIG", absent)
    assert main(command) == 2
    assert capsys.readouterr().err.splitlines() == [f"{absent}: can't be read: No such file or directory; {HINT}"]


def test_absent_file_that_was_named_has_no_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "mine.yaml"
    assert main(["list", "-c", str(absent)]) == 2
    assert capsys.readouterr().err.splitlines() == [f"{absent}: can't be read: No such file or directory"]
