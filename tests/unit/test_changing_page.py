"""docs/changing.md: its commands print what it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nodelaunch.cli.main import main
from nodelaunch.cli.plan import DIFFERENT

PAGE = (Path(__file__).parents[2] / "docs" / "changing.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_plan_is_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in zip(("nodelaunch.yaml", "new.yaml"), blocks("yaml"), strict=True):
        Path(name).write_text(text)
    (command,) = blocks("sh")
    assert main([*shlex.split(command)[1:], "--detailed-exitcode"]) == DIFFERENT
    (shown,) = blocks("text")
    assert capsys.readouterr().out == shown
