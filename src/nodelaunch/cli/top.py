"""``nodelaunch top``: shows pools with their load, waiting requests with reasons, launches and failures, live.

The command follows the records, and asks launchers at intervals for the data that is not in records. live.py is the
terminal, status.py collects the data.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.text import Text

from nodelaunch.cli.common import client_store, synced_view
from nodelaunch.cli.live import is_terminal, opened
from nodelaunch.cli.session import Given
from nodelaunch.cli.tables import counted
from nodelaunch.engine.reporting.explainrpc import ask_reports
from nodelaunch.engine.reporting.report import LauncherReport
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import NodelaunchError, StoreError, legible
from nodelaunch.operations.listing import age_text
from nodelaunch.protocol.quota import INSTANCES
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.store import Store
from nodelaunch.status import PoolStatus, Status, collect

STYLES = {
    "running": "green", "full": "yellow", "paused": "yellow", "draining": "yellow", "off": "yellow",
    "down": "red", "away": "red",
}  # fmt: skip
FEWEST_LINES = 3
"""The least lines of a section, including its title, on a small terminal."""
FIRST_S = 1.0
"""The time to wait for the first answers; after it, the first frame is drawn without them."""
WIDEST_BAR, NARROWEST_BAR = 24, 6


async def top(
    *,
    interval: Annotated[
        float,
        Parameter(help="Interval at which launchers are asked.", metavar="SECONDS", validator=Number(gte=0.5)),
    ] = 2.0,
    session: Given,
) -> None:
    """Show pools, waiting requests with reasons, launches in progress and the last failures, live. q quits.

    Each time the command asks, it writes one small record for all launchers, and each launcher writes one.
    """
    if not is_terminal():
        raise NodelaunchError("top needs a terminal; use 'status' or 'status --json' elsewhere")
    async with client_store(session) as store, synced_view(store) as view:
        asking = _Asking(store, view, interval)
        task = asyncio.ensure_future(asking.run())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_S):
                    await asking.has_asked.wait()  # so that the first frame has the launchers' data
            with opened() as screen:
                asking.on_news = screen.changed.set
                is_over = False
                while not is_over:
                    found = collect(view, asking.reports, time.time())
                    made = launches(view, found)
                    trouble = asking.trouble or (
                        "" if view.is_synced else "the connection is lost, this data may be stale"
                    )
                    screen.draw(frame(found, made, *screen.size, trouble=trouble, has_blocks=screen.has_blocks))
                    is_over = not await screen.wait(1.0)
        finally:
            task.cancel()
            await asyncio.wait([task])


class _Asking:
    """Asks launchers for their reports at intervals."""

    def __init__(self, store: Store, view: ClusterView, every_s: float) -> None:
        self.on_news: Callable[[], None] = lambda: None
        """Called when the reports have changed."""
        self.reports: list[LauncherReport] = []
        self.has_asked = asyncio.Event()
        self.trouble = ""
        """Why the reports are stale; empty if they are current."""
        self._store = store
        self._view = view
        self._every_s = every_s

    async def run(self) -> None:
        while True:
            try:
                processes = [seen.record.id for seen in self._view.presences.values()]
                self.reports = await ask_reports(self._store, processes) if processes else []
                self.trouble = ""
            except StoreError as error:
                self.trouble = f"launchers can't be asked: {error}"
            self.has_asked.set()
            self.on_news()
            await asyncio.sleep(self._every_s)


def launches(view: ClusterView, found: Status) -> list[Node]:
    """Return the nodes that are being launched, oldest first."""
    nodes = [node for provider in {pool.provider for pool in found.pools} for node in view.launching(provider)]
    return sorted(nodes, key=lambda node: (node.created_time or node.state_time, node.id))


# -- drawing --------------------------------------------------------------------------------------------------------


def frame(
    found: Status, made: Sequence[Node], width: int, height: int, *, trouble: str = "", has_blocks: bool = True
) -> Text:
    """Return the text for a terminal of this size; a section that does not fit ends with the number of hidden lines."""
    sections = [
        section
        for section in (
            [Text(legible(pause.text), "yellow") for pause in found.pauses],
            _titled("POOLS", _pool_lines(found.pools, width, has_blocks=has_blocks)),
            _titled("WAITING", _waiting_lines(found)),
            _titled("LAUNCHES IN PROGRESS", [_launch(node, found.at) for node in made]),
            _titled("LAST FAILURES", [_trouble(found, number) for number in range(len(found.troubles))]),
        )
        if section
    ]
    lines = [_head(found, len(made)), *([Text(legible(trouble), "bold red")] if trouble else [])]
    room = height - len(lines)
    for number, section in enumerate(sections):
        later = sum(1 + min(len(each), FEWEST_LINES) for each in sections[number + 1 :])
        lines += [Text(""), *_cut(section, max(min(len(section), FEWEST_LINES), room - 1 - later))]
        room = height - len(lines)
    for line in lines:
        line.truncate(width, overflow="crop")
    return Text("\n").join(lines[:height])


def _head(found: Status, launching: int) -> Text:
    ours = sum(bool(launcher.id) for launcher in found.launchers)
    nodes = sum(count for pool in found.pools for count in pool.nodes.values())
    waiting, working = found.requests.get("requested", 0), found.requests.get("pending", 0)
    clock = time.strftime("%H:%M:%S", time.localtime(found.at))
    things = f"{counted(nodes, 'node')}  {counted(ours, 'launcher')}"
    counts = f"{waiting} waiting  {working} working  {launching} launching  {things}"
    return Text(f"{clock}  q quits  {counts}", "bold")


def _titled(title: str, lines: Sequence[Text]) -> list[Text]:
    return [Text(title, "bold"), *lines] if lines else []


def _cut(section: Sequence[Text], room: int) -> list[Text]:
    if len(section) <= room:
        return list(section)
    kept = max(1, room - 1)
    return [*section[:kept], Text(f"... {len(section) - kept} more lines", "dim")]


def _pool_lines(pools: Sequence[PoolStatus], width: int, *, has_blocks: bool) -> list[Text]:
    names = [legible(f"{pool.provider}/{pool.pool}") for pool in pools]
    widest = min(max(map(len, names), default=0), max(12, width // 3))
    bar = max(NARROWEST_BAR, min(WIDEST_BAR, width - widest - 40))
    lines: list[Text] = []
    for name, pool in zip(names, pools, strict=True):
        line = Text(f"{name[:widest]:<{widest}}  ")
        line.append(f"{pool.state:<8}", STYLES.get(pool.state, ""))
        used, limit = pool.used.get(INSTANCES, 0), pool.limits.get(INSTANCES)
        line.append("  ").append_text(_bar(used, limit, bar, has_blocks=has_blocks))
        line.append(f" {used:.15g}/{'-' if limit is None else f'{limit:.15g}'}")
        line.append(f"  {', '.join(f'{count} {state}' for state, count in pool.nodes.items())}", "dim")
        lines.append(line)
        if pool.down is not None:
            lines.append(Text(f"  {legible(pool.down)}", "red"))
        lines += [Text(f"  {legible(str(breaker))}", "red") for breaker in pool.breakers]
    return lines


def _bar(used: float, limit: float | None, width: int, *, has_blocks: bool) -> Text:
    """Return a bar that shows how much of *limit* is used; None: the limit is not known."""
    share = 0.0 if not limit else min(1.0, used / limit)
    filled = round(share * width) if share < 1 else width
    filled = max(filled, 1) if used > 0 and limit else filled
    full, empty = ("\u2588", "\u2591") if has_blocks else ("#", ".")
    style = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
    return Text("").append(full * filled, style).append((" " if limit is None else empty) * (width - filled), "dim")


def _waiting_lines(found: Status) -> list[Text]:
    lines: list[Text] = []
    for request in found.waiting:
        who = f"  {request.requestor}" if request.requestor else ""
        labels = ",".join(request.labels)
        lines.append(Text(legible(f"{request.id}  {age_text(found.at - request.since)}  {labels}{who}")))
        lines += [Text(f"  {legible(reason)}", "dim") for reason in request.why]
    more = found.requests.get("requested", 0) - len(found.waiting)
    return [*lines, Text(f"... {more} more requests", "dim")] if more > 0 else lines


def _launch(node: Node, now: float) -> Text:
    since = node.created_time or node.state_time
    where, labels = f"{node.provider}/{node.pool}", ",".join(node.type)
    what = f"{node.id}  {age_text(now - since)}  {node.state.value:<8}  {where}  {labels}  {node.allocated_to or ''}"
    return Text(legible(what))


def _trouble(found: Status, number: int) -> Text:
    trouble = found.troubles[number]
    clock = time.strftime("%H:%M:%S", time.localtime(trouble.at))
    return Text(legible(f"{clock}  {trouble.provider}/{trouble.pool}  {trouble.request}  {trouble.what}"))


__all__ = ["frame", "launches", "top"]
