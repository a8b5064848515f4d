"""Screen of ``nodelaunch top``, at any size."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
from rich.text import Text

from nodelaunch.cli.session import CliSession, CommonOptions
from nodelaunch.cli.top import frame
from nodelaunch.engine.reporting.report import LauncherReport
from nodelaunch.engine.serve.history import Trouble
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node, Presence
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Store
from nodelaunch.status import LauncherStatus, PauseStatus, PoolStatus, RequestStatus, Status
from nodelaunch.store.embedded.socket import StoreServer
from nodelaunch.store.embedded.store import EmbeddedStore
from support.builders import a_pause

cli_top = import_module("nodelaunch.cli.top")

NOW = 1_700_000_600.0
POOLS = (
    PoolStatus("cloud", "main", state="full", nodes={"in-use": 3, "ready": 1}, limits={"instances": 4},
               used={"instances": 4}),
    PoolStatus("other", "main", state="down", limits={"instances": 10}, used={"instances": 1}, down="HTTP 503"),
    PoolStatus("free", "main", used={"instances": 7}),
)  # fmt: skip
FULL = Status(
    at=NOW,
    launchers=(LauncherStatus("a", "here", "1", "running", NOW), LauncherStatus("", "np", "11", "running", None)),
    pools=POOLS,
    pauses=(PauseStatus.of(a_pause(reason="disks")),),
    requests={"requested": 30, "pending": 2},
    waiting=tuple(
        RequestStatus(f"200-{number:010d}", ("small",), NOW - 61, "zuul", ("cloud/main: full", "bad\x1b[2J"))
        for number in range(20)
    ),
    troubles=tuple(Trouble(NOW, "cloud", "main", "200-1", f"launch {number} failed") for number in range(20)),
)
MADE = [
    Node(id=NodeId(f"{number:010d}"), state=NodeState.BUILDING, provider="cloud", pool="main", type=("small",),
         created_time=NOW - 5)
    for number in range(20)
]  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [5, 24, 60, 200])
def test_everything_fits(width: int, height: int) -> None:
    lines = frame(FULL, MADE, width, height).plain.split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)


def test_all_is_shown_where_there_is_room() -> None:
    text = frame(FULL, MADE, 160, 200, trouble="launchers can't be asked").plain
    assert "q quits  30 waiting  2 working  20 launching  4 nodes  1 launcher" in text
    for part in (
        "launchers can't be asked", "provider cloud is paused since", " 4/4  3 in-use, 1 ready", "HTTP 503", "7/-",
        "200-0000000019  00:00:01:01  small  zuul", "... 10 more requests", "0000000019  00:00:00:05  building",
        "launch 19 failed",
    ):  # fmt: skip
        assert part in text


def test_each_section_has_its_share_and_says_how_much_more_there_is() -> None:
    text = frame(FULL, MADE, 80, 30).plain
    for title in ("POOLS", "WAITING", "LAUNCHES IN PROGRESS", "LAST FAILURES"):
        assert title in text
    assert text.count("more lines") == 3


def test_bars_show_the_share_that_is_used() -> None:
    lines = [line for line in frame(FULL, [], 120, 60).plain.split("\n") if "/main" in line and "200-" not in line]
    assert [line.count("\u2588") for line in lines[:3]] == [24, 2, 0]
    assert [line.count("\u2591") for line in lines[:3]] == [0, 22, 0]
    assert "#" * 24 in frame(FULL, [], 120, 60, has_blocks=False).plain
    assert "\u2588" not in frame(FULL, [], 120, 60, has_blocks=False).plain


def test_nothing_to_show_is_one_line() -> None:
    assert frame(Status(at=NOW), [], 80, 24).plain.count("\n") == 0


class _Terminal:
    """A terminal that is drawn on once."""

    size = (160, 50)
    has_blocks = True

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.drawn: list[str] = []

    def draw(self, text: Text) -> None:
        self.drawn.append(text.plain)

    async def wait(self, _seconds: float) -> bool:
        return False


async def test_first_frame_has_what_only_launchers_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    report = LauncherReport("a", troubles=(Trouble(NOW, "cloud", "main", "200-1", "launch failed"),))

    async def ask_reports(store: Store, _processes: list[str]) -> list[LauncherReport]:
        await store.children(paths.PRESENCES)
        return [report]

    monkeypatch.setattr(cli_top, "is_terminal", lambda: True)
    monkeypatch.setattr(cli_top, "opened", lambda: nullcontext(terminal))
    monkeypatch.setattr(cli_top, "ask_reports", ask_reports)
    config = tmp_path / "nodelaunch.yaml"
    config.write_text(f"embedded-store: {{path: {tmp_path}/store}}")
    async with EmbeddedStore(None) as store, StoreServer(store, f"{tmp_path}/store.sock"):
        await store.ensure(*paths.ALWAYS_THERE)
        await store.create(f"{paths.PRESENCES}/a", Presence(id="a", hostname="a").to_bytes(), sequence=True)
        await cli_top.top(session=CliSession(CommonOptions(config=config)))
    (frame_,) = terminal.drawn
    assert "launch failed" in frame_
