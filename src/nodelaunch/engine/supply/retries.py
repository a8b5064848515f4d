"""Decides when labels whose nodes could not be kept ready are requested again: after growing pauses, and when capacity
becomes free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nodelaunch.backoff import Backoff
from nodelaunch.engine.serve.spare import SpareCapacity
from nodelaunch.protocol.paths import RequestId

FIRST_BACKOFF_S, LAST_BACKOFF_S = 1.0, 60.0
"""Seconds of pause after a failed request; the pause doubles each time."""

LOOK_EVERY_S = 1.0
"""Least seconds between two checks for free capacity, even if capacity becomes free more often."""


class Retries:
    """Retries for the labels of one process. *wake* is called when a label may be requested again."""

    def __init__(self, spare: SpareCapacity | None, wake: Callable[[], None]) -> None:
        """*spare*: None if pools are unknown; then only the pauses count."""
        self._spare = spare
        self._wake = wake
        self._backoff: Backoff[str] = Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S)
        self._why: dict[str, tuple[str, ...]] = {}
        """The pools' last reasons for each label that was declined."""
        self._looks_at: float | None = None
        """The next check for free capacity, by the loop's clock; None: none became free."""
        self._is_looking = False
        self._lack_capacity: set[str] = set()
        """Labels that were declined only for lack of capacity."""

    def __contains__(self, label: str) -> bool:
        """True if the label's last request was declined."""
        return label in self._backoff

    def clear(self) -> None:
        """Allow all labels at once: the reasons of their declines do not hold any more."""
        self._backoff.clear()
        self._why.clear()
        self._lack_capacity.clear()
        self._looks_at = None

    def kept(self, label: str) -> None:
        """Note that a request for *label* was fulfilled."""
        self._backoff.succeeded(label)
        self._why.pop(label, None)
        self._lack_capacity.discard(label)

    def declined(self, label: str, request_id: RequestId) -> float:
        """Note that a request for *label* was declined. Return the pause until the next one, in seconds."""
        self._why[label] = self.why_waits(request_id, label)
        self._lack_capacity.discard(label)
        if self._spare is not None and self._spare.lacked_capacity(request_id, label):
            self._lack_capacity.add(label)
        loop = asyncio.get_running_loop()
        delay = self._backoff.failed(label, loop.time())
        loop.call_later(delay, self._wake)
        return delay

    def capacity_changed(self, _key: object) -> None:
        """Note that a pool may have more capacity. Labels that failed for another reason are not retried for that."""
        if not self._lack_capacity or self._looks_at is not None:
            return
        loop = asyncio.get_running_loop()
        self._looks_at = loop.time() + LOOK_EVERY_S
        loop.call_at(self._looks_at, self._wake)

    def begin(self) -> None:
        """Mark the start of a check of all labels."""
        self._is_looking = self._looks_at is not None and asyncio.get_running_loop().time() >= self._looks_at
        if self._is_looking:
            self._looks_at = None

    def may_try(self, label: str) -> bool:
        """Return True if the label's pause is over, or capacity has become free."""
        if self._backoff.may_try(label, asyncio.get_running_loop().time()):
            return True
        return self._is_looking and label in self._lack_capacity and self._has_capacity(label)

    def _has_capacity(self, label: str) -> bool:
        return self._spare is not None and self._spare.has_capacity(label)

    def why_waits(self, request_id: RequestId, label: str) -> tuple[str, ...]:
        """Return the pools' reasons for a request for *label* that waits."""
        return self._spare.why(request_id, label) if self._spare is not None else ()

    def why(self, label: str) -> tuple[str, ...]:
        """Return the pools' reasons for the last request."""
        return self._why.get(label, ())

    def lacks_capacity(self, label: str) -> bool:
        """Return True if lack of capacity is the only reason."""
        return label in self._lack_capacity

    def pause_left_s(self, label: str) -> float | None:
        """Return the seconds until *label* is requested again, regardless of capacity; None: it was not declined."""
        return self._backoff.pause_left(label, asyncio.get_running_loop().time())
