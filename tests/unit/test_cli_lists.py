"""How ``nodelaunch list`` and ``nodelaunch leaks`` show their rows."""

from __future__ import annotations

import pytest

from nodelaunch.cli.lists import show, table_of


def test_each_row_is_a_line_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id that is cut, or broken to fit, can be neither searched for nor copied."""
    monkeypatch.setenv("COLUMNS", "40")
    rows = [
        {"id": f"000000000{number}", "labels": ["debian-12", "arm-lab"] * 5, "server_id": "f" * 36, "locked": True}
        for number in range(3)
    ]
    show(table_of(rows, "nodes"))
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "labels", "server", "id", "locked"]
    assert [line.split() for line in lines] == [
        [row["id"], ",".join(["debian-12", "arm-lab"] * 5), "f" * 36, "yes"] for row in rows
    ]


def test_nothing_to_show_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show(table_of([], "leaks"))
    assert capsys.readouterr().out == "no leaks\n"
