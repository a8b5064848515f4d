"""docs/troubleshooting.md: its commands, log lines, figures and reasons are ones that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from support.commands import parsed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SOURCE = "\n".join(path.read_text() for path in (ROOT / "src" / "nodelaunch").rglob("*.py"))
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line.strip()
] + re.findall(r"`(nodelaunch [^`]+)`", PAGE)
OTHERS = {
    "curl": r"http://HOST:8005/(health/ready|health/live|metrics)",
    "df": r"-h /var/lib/nodelaunch",
    "ssh-keyscan": r"-p 22 NODE",
}
EVENTS = sorted(set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGE)) - {"request_id", "retry_in_s"})
FIGURES = {each for each in EVENTS if each.startswith(("nodelaunch_", "process_"))}
REASONS = [
    reason
    for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    for reason in re.findall(r"`([^`]+)`", row)
    if not reason.startswith(("/", "nodelaunch "))
]


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_command_is_one_that_there_is(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "nodelaunch":
        assert parsed(words[1:])
    else:
        assert re.fullmatch(OTHERS[words[0]], " ".join(words[1:]))


@pytest.mark.parametrize("event", sorted(set(EVENTS) - FIGURES))
def test_what_the_log_is_to_say_is_logged(event: str) -> None:
    assert re.search(rf'"{event}"', SOURCE)


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_to_be_said_is_said(reason: str) -> None:
    for part in filter(str.strip, reason.split("...")):
        words = r"[^\n]*?".join(map(re.escape, part.split()))
        assert re.search(words, SOURCE), part


@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_figure_is_one_that_monitoring_lists(figure: str) -> None:
    assert f"`{figure.removeprefix('nodelaunch_')}`" in (ROOT / "docs" / "monitoring.md").read_text()


def test_everything_is_found() -> None:
    assert len(COMMANDS) > 20
    assert len(EVENTS) > 10
    assert len(REASONS) > 15
    assert len(FIGURES) >= 3
