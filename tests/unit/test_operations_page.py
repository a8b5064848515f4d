"""docs/operations.md: the commands that it gives are ones that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from support.commands import parsed

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
BLOCKS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
INLINE = re.findall(r"`(nodelaunch (?:pause|drain|resume|list|delete|unhold|leaks|status|top)[^`]*)`", PAGE)


@pytest.mark.parametrize("line", [line for line in (*BLOCKS, *INLINE) if line.strip()])
def test_command_is_one_that_there_is(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert words[0] == "nodelaunch"
    assert parsed(words[1:])
