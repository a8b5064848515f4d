"""docs/writing-a-driver.md is true: its files are written and its commands run, in order, and show what it shows."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import nodelaunch
from support.processes import EXAMPLES, running

GUIDE = Path(__file__).parents[2] / "docs" / "writing-a-driver.md"
TIMEOUT_S = 240.0
BLOCK = re.compile(r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    file: str | None = None


def blocks() -> list[Block]:
    return [Block(found["kind"], found["text"], found["file"]) for found in BLOCK.finditer(GUIDE.read_text())]


def is_shown(shown: str, output: str) -> bool:
    """Return whether *output* equals *shown*, where ``...`` stands for anything and spaces for any number of spaces."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in shown.strip().split("...")]
    return (
        re.fullmatch(r"\s*" + r".*?".join(rf"\s*{part}\s*" for part in parts) + r"\s*", output, re.DOTALL) is not None
    )


def test_every_block_is_a_file_commands_or_output() -> None:
    kinds = [block.kind for block in blocks()]
    assert GUIDE.read_text().count("```") == 2 * len(kinds)
    assert all(block.file is not None or block.kind in ("sh", "text") for block in blocks())
    assert kinds.count("sh") > 5
    assert all(before == "sh" for before, kind in itertools.pairwise(kinds) if kind == "text")


@pytest.mark.parametrize(
    ("shown", "output", "expected"),
    [
        ("a b\n", "a   b\n", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("...\nd", "a\nd\n", True),
        ("a\nd", "a\nb\nd", False),
        ("a ...", "b a", False),
    ],
)
def test_what_is_shown_is_compared(shown: str, output: str, expected: bool) -> None:
    assert is_shown(shown, output) == expected


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A reader's, without a network: the nodelaunch that they install, and what builds packages, are there already."""
    home = tmp_path / "home"
    python = home / "bin" / "python3"
    python.parent.mkdir(parents=True)
    ours = [str(Path(nodelaunch.__file__).parents[1]), *(each for each in sys.path if each.endswith("-packages"))]
    (home / "ours.pth").write_text("\n".join(ours))
    (home / "nodelaunch").write_text('#!/bin/sh\nexec "${0%/*}/python" -m nodelaunch "$@"\n')
    (home / "nodelaunch").chmod(0o755)
    # A new virtual environment sees our packages, as if they had been installed there.
    python.write_text(
        f'#!/bin/sh\n{sys.executable} "$@" || exit\n[ "$1 $2" = "-m venv" ] || exit 0\n'
        f'cp {home}/ours.pth "$3"/lib/python*/site-packages/ && cp {home}/nodelaunch "$3"/bin/\n'
    )
    python.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "VIRTUAL_"))}
    yield {
        **kept, "HOME": str(home), "EXAMPLES": str(EXAMPLES),
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin",
        "XDG_STATE_HOME": str(home / "state"), "XDG_DATA_HOME": str(home / "data"), "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull, "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    assert running(str(tmp_path)) == {}


def test_guide_is_followed_from_top_to_bottom(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "guide"
    folder.mkdir()
    before = ["trap 'kill $(jobs -p) 2>/dev/null || :' EXIT"]
    output = ""
    for block in blocks():
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.kind == "sh":
            script = "\n".join(["set -e", *before, block.text])
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            output = done.stdout
            assert done.returncode == 0, (block.text, done.stdout, done.stderr)
            before = [before[0], ". venv/bin/activate"]
        else:
            assert is_shown(block.text, output), (block.text, output)
