"""Listeners for changes in the embedded store: trees by their roots, waiters for a lock by its directory.

The cost of a change depends on the depth of its path and on the listeners there, not on listeners elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from nodelaunch.log import Logger, get_logger
from nodelaunch.store.embedded.znodes import Change

log: Logger = get_logger(__name__)

Listener = Callable[[Change], None]
Wake = Callable[[], None]
_T = TypeVar("_T")


class Audience:
    """Calls each listener with the changes at its paths, in order. An error in a listener is logged and does not affect
    the others."""

    def __init__(self) -> None:
        self._below: dict[str, list[Listener]] = {}
        self._vacant: dict[str, list[Wake]] = {}

    @contextmanager
    def below(self, root: str, listener: Listener) -> Iterator[None]:
        """Call *listener* with every change below *root* inside the block."""
        with _entered(self._below, root, listener):
            yield

    @contextmanager
    def vacant(self, directory: str, wake: Wake) -> Iterator[None]:
        """Call *wake* whenever a child of *directory* is deleted, inside the block."""
        with _entered(self._vacant, directory, wake):
            yield

    def notify(self, changes: Sequence[Change]) -> None:
        """Report *changes*, which became visible together."""
        below = self._below
        for change in changes:
            old, new, path = change.old, change.new, change.path
            if old is not None and new is not None and old.entry is new.entry:
                continue  # the entry of a parent that got a child is unchanged
            end = path.find("/", 1)
            while end > 0:
                if listeners := below.get(path[:end]):
                    self._call(listeners, change)
                end = path.find("/", end + 1)
            if new is None and self._vacant:
                for wake in tuple(self._vacant.get(path.rpartition("/")[0], ())):
                    wake()

    def _call(self, listeners: Sequence[Listener], change: Change) -> None:
        for listener in tuple(listeners):
            try:
                listener(change)
            except Exception:
                log.exception("store_listener_failed", path=change.path)


@contextmanager
def _entered(table: dict[str, list[_T]], key: str, value: _T) -> Iterator[None]:
    table.setdefault(key, []).append(value)
    try:
        yield
    finally:
        table[key].remove(value)
        if not table[key]:
            del table[key]
