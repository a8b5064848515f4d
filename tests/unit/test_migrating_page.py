"""docs/migrating.md: its configuration loads, and its commands are ones that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nodelaunch.config.file import load_config
from nodelaunch.drivers import DriverRegistry
from support.commands import parsed

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()


def blocks(kind: str) -> list[str]:
    return [re.sub(r"(?m)^   ", "", block) for block in re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)]


def test_configuration_loads_without_a_warning(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    path = tmp_path / "cloud-a.yaml"
    path.write_text(text)
    config, warnings = load_config(path, drivers=DriverRegistry(), environ={})
    assert warnings == ()
    assert config.providers[0].pools[0].label_names == ("debian-12",)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if line.strip()])
def test_command_is_one_that_there_is(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "nodelaunch"
    assert parsed(words[1:])
