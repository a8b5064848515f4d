"""The page of errors has all of them, as the source says them."""

from __future__ import annotations

from support.errors_page import PAGE, page


def test_errors_page_is_that_of_the_source() -> None:
    assert PAGE.read_text() == page(), "write it anew: cd tests; python -m support.errors_page"
