"""Deadlines by key, the next one first. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
SLACK = 64
"""Most outdated entries in a heap, in addition to the number of valid entries."""


class Deadlines(Generic[K]):
    """Deadlines by key: a new deadline replaces the key's old one.

    Invariants: each key of ``_when`` is in the heap with its deadline; the heap has at most twice as many entries as
    there are keys, and `SLACK`. Times are seconds of any one clock.
    """

    __slots__ = ("_heap", "_numbers", "_on_first", "_when")

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        """*on_first*: called when a deadline is set that comes before all others."""
        self._on_first = on_first
        self._when: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = count()

    def set(self, key: K, when: float) -> None:
        if self._when.get(key) == when:
            return
        self._when[key] = when
        entry = (when, next(self._numbers), key)
        heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._on_first()
        if len(self._heap) > 2 * len(self._when) + SLACK:
            self._heap = [(when, next(self._numbers), key) for key, when in self._when.items()]
            heapify(self._heap)

    def forget(self, key: K) -> None:
        self._when.pop(key, None)

    def clear(self) -> None:
        self._when.clear()
        self._heap.clear()

    def __contains__(self, key: K) -> bool:
        return key in self._when

    def __len__(self) -> int:
        return len(self._when)

    def due(self, now: float) -> list[K]:
        """Remove and return the keys whose deadline has passed, in order of their deadlines."""
        passed = []
        while self._heap and self._heap[0][0] <= now:
            when, _, key = heappop(self._heap)
            if self._when.get(key) == when:
                del self._when[key]
                passed.append(key)
        return passed

    @property
    def next(self) -> float | None:
        """The first deadline; None if there is none."""
        while self._heap and self._when.get(self._heap[0][2]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None
