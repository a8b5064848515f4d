"""A terminal that shows changing text: redrawn in place, ended by ``q`` or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

QUIT_KEYS = frozenset(b"qQ\x03")


class Screen:
    """The terminal while it is `opened`. ``changed`` is set when it has to be redrawn, ``ended`` when it has to end."""

    def __init__(self, console: Console, live: Live) -> None:
        self.changed: asyncio.Event = asyncio.Event()
        self.ended: asyncio.Event = asyncio.Event()
        self._console = console
        self._live = live

    @property
    def size(self) -> tuple[int, int]:
        """Return the number of columns and lines."""
        return self._console.size.width, self._console.size.height

    @property
    def has_blocks(self) -> bool:
        """Return True if the terminal can show characters beyond ASCII."""
        return (self._console.encoding or "").lower().replace("-", "") == "utf8"

    def draw(self, text: Text) -> None:
        """Replace the shown text with *text*, cut to the size of the terminal."""
        text.no_wrap, text.overflow = True, "crop"
        self._live.update(text, refresh=True)

    def draw_text(self, text: str) -> None:
        """Do as `draw` does, without colours."""
        from rich.text import Text

        self.draw(Text(text))

    async def wait(self, seconds: float) -> bool:
        """Wait for a change or the end, for *seconds* at most; return False at the end."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.changed, self.ended)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        self.changed.clear()
        return not self.ended.is_set()


def is_terminal() -> bool:
    """Return True if standard output is a terminal that can be redrawn."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


@contextmanager
def opened() -> Iterator[Screen]:
    """Take over the terminal and restore it afterwards. Call it while the event loop runs."""
    from rich.console import Console  # takes long to import, and no command needs it without a terminal
    from rich.live import Live

    console = Console()
    loop = asyncio.get_running_loop()
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        screen = Screen(console, live)
        loop.add_signal_handler(signal.SIGINT, screen.ended.set)
        loop.add_signal_handler(signal.SIGTERM, screen.ended.set)
        loop.add_signal_handler(signal.SIGWINCH, screen.changed.set)
        try:
            with _keys(screen):
                yield screen
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH):
                loop.remove_signal_handler(number)


@contextmanager
def _keys(screen: Screen) -> Iterator[None]:
    """Read single keys, if standard input is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def on_input() -> None:
        keys = b""
        with suppress(OSError):
            keys = os.read(descriptor, 64)
        if not keys or QUIT_KEYS.intersection(keys):  # no input: the terminal is closed
            loop.remove_reader(descriptor)
            screen.ended.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, on_input)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
