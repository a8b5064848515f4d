"""Detects code that blocks an event loop, and names the line."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from types import TracebackType
from typing import Self

SAMPLE_S = 0.01


class LoopWatch:
    """Watches the running loop from a separate thread inside the block; ``held_up_by`` is the line that blocked it.

    The watch counts its own samples between two turns of the loop, not time: on a busy machine that runs neither the
    thread nor the loop, it blames no code.
    """

    def __init__(self, max_block_s: float) -> None:
        self.held_up_by: str | None = None
        self._patience = max(1, round(max_block_s / SAMPLE_S))
        self._turned = threading.Event()
        self._done = threading.Event()

    async def __aenter__(self) -> Self:
        loop, watched = asyncio.get_running_loop(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(loop, watched), name="loop watch", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()  # takes at most SAMPLE_S

    def _watch(self, loop: asyncio.AbstractEventLoop, watched: int) -> None:
        while not self._done.is_set() and self.held_up_by is None:
            self._turned.clear()
            loop.call_soon_threadsafe(self._turned.set)
            looks = 0
            while not (self._turned.wait(SAMPLE_S) or self._done.is_set()):
                looks += 1
                if looks == self._patience:
                    self.held_up_by = _place(watched)
            self._done.wait(SAMPLE_S)


def _place(thread: int) -> str:
    """Return the line that *thread* executes."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  the only way to another thread's stack
    if frame is None:
        return "code in a thread that has ended"
    at = traceback.extract_stack(frame)[-1]
    return f"{at.filename}:{at.lineno} ({at.name}: {at.line})"
