"""``--watch``: redraws a list whenever its rows change; on a pipe, prints the list again each time.

The records are read once, and then followed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from nodelaunch.cli import live
from nodelaunch.cli.common import client_store, synced_view
from nodelaunch.cli.session import CliSession
from nodelaunch.engine.view import ClusterView
from nodelaunch.operations.listing import Snapshot, take_snapshot

EVERY_S = 2.0
"""The default of the shortest interval between two lists, as in ``watch``."""


def _more_than_none(_type: object, seconds: list[float] | None) -> None:
    if seconds and seconds[0] <= 0:
        raise ValueError("the interval between two lists has to be more than 0 seconds")


Watch = Annotated[
    list[float] | None,
    Parameter(
        consume_multiple=(0, 1),
        metavar="[SECONDS]",
        validator=_more_than_none,
        help="Show the list again when it changes, at most every 2 seconds or the given number; q quits.",
    ),
]
"""The type of the option; None: not given, empty: given without a number."""

Rows = Callable[[Snapshot], Sequence[Any]]
Lines = Callable[[Snapshot], str]


async def watch(
    session: CliSession, what: str, seconds: list[float], rows: Rows, lines: Lines, *, as_json: bool
) -> None:
    """Show *what* until the end: on a terminal with *lines*, elsewhere again whenever *rows* change.

    With *as_json*, each list of *rows* is printed as one JSON array on a line.
    """
    every_s = max(0.1, seconds[0] if seconds else EVERY_S)
    async with client_store(session) as store, synced_view(store) as view:
        if as_json or not live.is_terminal():
            await _print_changes(view, every_s, rows, lines, as_json=as_json)
        else:
            with live.opened() as screen:
                is_over = False
                while not is_over:
                    screen.draw_text(_page(view, every_s, what, lines))
                    is_over = not await screen.wait(every_s)


def _page(view: ClusterView, every_s: float, what: str, lines: Lines) -> str:
    now = time.time()
    state = "" if view.is_synced else "; the connection is lost, this data may be stale"
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    return f"{what} every {every_s:g} s at {clock}{state}; q quits\n\n{lines(take_snapshot(view, now))}"


async def _print_changes(view: ClusterView, every_s: float, rows: Rows, lines: Lines, *, as_json: bool) -> None:
    changed = asyncio.Event()
    stop = view.subscribe(lambda _event: changed.set())
    shown: object = None
    try:
        while True:
            found = take_snapshot(view, time.time())
            now = [_ageless(row) for row in rows(found)]
            if now != shown:
                clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.at))
                head = "" if shown is None else "\n"
                text = json.dumps(list(rows(found))) if as_json else f"{head}{clock}\n{lines(found)}"
                try:
                    print(text, flush=True)  # noqa: T201
                except BrokenPipeError:  # the reader has closed the pipe
                    sys.stderr.close()
                    return
                shown = now
            changed.clear()
            await changed.wait()
            await asyncio.sleep(every_s)  # changes in this time are shown together
    finally:
        stop()


def _ageless(row: Any) -> dict[str, Any]:
    """Return a row without its ages, which change all the time."""
    return {key: value for key, value in row.items() if key not in ("age", "age_s")}


__all__ = ["EVERY_S", "Watch", "watch"]
