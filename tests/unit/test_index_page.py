"""docs/index.md shows the README's commands, and links of the page to files of the repository are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


def commands(page: str) -> set[str]:
    return {line for block in SHELL.findall((ROOT / page).read_text()) for line in block.splitlines()}


def test_commands_are_those_of_the_readme() -> None:
    assert len(commands("docs/index.md")) > 5
    assert commands("docs/index.md") <= commands("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_file_that_a_page_links_to_is_in_the_repository(page: str) -> None:
    folder = (ROOT / page).parent
    assert not [link for link in LINK.findall((ROOT / page).read_text()) if not (folder / link).exists()]
