"""How ``nodelaunch list`` and ``nodelaunch leaks`` show their rows."""

from __future__ import annotations

from typing import Any

import pytest

from nodelaunch.cli.lists import node_rows, show, table_of
from support.builders import a_node


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


class View:
    """Of nodes alone."""

    def __init__(self, **nodes: Any) -> None:
        self.nodes = nodes

    def is_node_locked(self, node_id: str) -> bool:
        return False


class Seen:
    def __init__(self, record: Any) -> None:
        self.record = record


def test_assurance_of_host_keys_is_in_the_json_and_not_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    properties = ({"host_key_assurance": "verified"}, {"spot": True}, None)
    view: Any = View(**{str(n): Seen(a_node(n, node_properties=each)) for n, each in enumerate(properties)})
    rows = node_rows(view)
    assert [row["host_key_assurance"] for row in rows] == ["verified", None, None]
    show(table_of(rows, "nodes"))
    assert "assurance" not in capsys.readouterr().out
