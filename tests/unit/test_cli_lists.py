"""How tables are shown on a terminal."""

from __future__ import annotations

from nodelaunch.cli.tables import aligned


def test_each_row_is_a_line_on_a_narrow_terminal() -> None:
    """An id that is cut, or broken to fit, can be neither searched for nor copied."""
    labels = ",".join(["debian-12", "arm-lab"] * 5)
    rows = [[f"000000000{number}", labels, "f" * 36] for number in range(3)]
    head, *lines = aligned([["ID", "Label", "Server ID"], *rows]).splitlines()
    assert head.split("  ")[0] == "ID"
    assert [line.split() for line in lines] == rows


def test_columns_stand_below_each_other() -> None:
    text = aligned([["A", "B"], ["long", "x"], ["", "y"]])
    assert text == "A     B\nlong  x\n      y"


def test_control_characters_are_made_visible() -> None:
    assert "\x1b" not in aligned([["A"], ["\x1b[2J"]])
