"""The table of docs/reliability.md is the crash matrix, and says that all holds."""

from __future__ import annotations

from crash import page
from crash.steps import STEPS


def test_page_has_a_row_for_each_cell_and_none_besides() -> None:
    assert list(page.rows()) == page.wanted()


def test_page_says_of_every_point_that_all_holds_after_it() -> None:
    assert all(points == held > 0 for points, held, _ in page.rows().values())


def test_page_tells_what_is_going_on_in_each_step() -> None:
    text = page.PAGE.read_text()
    assert [step.name for step in STEPS if f"| {step.name} | {step.what} |" not in text] == []
