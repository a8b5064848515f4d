"""docs/cli.md says what the command line says."""

from __future__ import annotations

import re

import pytest

from nodelaunch.cli.main import COMMANDS
from support.cli_page import PAGE, page


def test_page_is_what_the_command_line_says() -> None:
    assert PAGE.read_text() == page(), "write it anew: cd tests; python -m support.cli_page"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_its_part_(name: str) -> None:
    part = PAGE.read_text().split(f"\n## nodelaunch {name}\n")[1].split("\n## ")[0]
    assert re.search(r"^[A-Z].*\.", part, re.MULTILINE)
    assert not re.search(r"--no-(?!webapp)|--empty-|default: False", part)


def test_page_names_no_folder_of_the_one_who_made_it() -> None:
    assert "default: ~/.local/share/nodelaunch/drivers" in PAGE.read_text()
    assert "/root" not in PAGE.read_text()
