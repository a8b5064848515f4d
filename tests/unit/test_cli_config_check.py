"""Places where ``nodelaunch config check`` prints its output."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.cli.main import main

WARNED = "labels: [{name: small}]\nproviders:\n"


def test_warnings_are_the_answer_and_errors_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nodepool.yaml"
    path.write_text(WARNED)
    assert main(["config", "check", str(path)]) == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    assert out.splitlines()[0].endswith("(warning)")
    assert out.splitlines()[-1].startswith(f"{path}: good; ")
    path.write_text(WARNED + "nonsense: 1\n")
    assert main(["config", "check", str(path)]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"{path}:3:1: unknown key 'nonsense'")
