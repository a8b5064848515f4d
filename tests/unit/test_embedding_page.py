"""docs/embedding.md: its programs run, and print what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "embedding.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("program", "shown"), PROGRAMS, ids=map(str, range(len(PROGRAMS))))
def test_program_runs_and_prints_what_is_shown(program: str, shown: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


def test_programs_are_found() -> None:
    assert len(PROGRAMS) == PAGE.count("```python") >= 2


def test_example_is_shown_as_it_is() -> None:
    ((name, shown),) = re.findall(r"^<!-- (\S+) -->\n```py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert shown == (ROOT / name).read_text()
