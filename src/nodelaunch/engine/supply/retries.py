"""When labels whose nodes could not be kept ready are asked for again: after growing pauses, and where room appears.

What does *not* belong here: what is asked for (minready.py), and what room there is (spare.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nodelaunch.backoff import Backoff
from nodelaunch.engine.serve.spare import SpareRoom
from nodelaunch.protocol.paths import RequestId

FIRST_BACKOFF_S, LAST_BACKOFF_S = 1.0, 60.0
"""Pause after a request of ours failed; it doubles each time."""

LOOK_EVERY_S = 1.0
"""How often it is seen at most whether room has come, however much becomes free."""


class Retries:
    """Of the labels of one process. *wake* is called when there may be something to ask for."""

    def __init__(self, spare: SpareRoom | None, wake: Callable[[], None]) -> None:
        """*spare*: None where nothing is known of pools; then only the pauses count."""
        self._spare = spare
        self._wake = wake
        self._backoff: Backoff[str] = Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S)
        self._why: dict[str, tuple[str, ...]] = {}
        """What pools said last of each label that was declined."""
        self._looks_at: float | None = None
        """When it is seen next whether room has come, by the loop's clock; None: nothing became free."""
        self._is_looking = False
        self._lack_room: set[str] = set()
        """Labels for which there was no room, and nothing else was wrong."""

    def __contains__(self, label: str) -> bool:
        """Whether its last request was declined."""
        return label in self._backoff

    def clear(self) -> None:
        """All labels may be tried at once: what declined them is not so any more."""
        self._backoff.clear()
        self._why.clear()
        self._lack_room.clear()
        self._looks_at = None

    def kept(self, label: str) -> None:
        """A request for *label* was fulfilled."""
        self._backoff.succeeded(label)
        self._why.pop(label, None)
        self._lack_room.discard(label)

    def declined(self, label: str, request_id: RequestId) -> float:
        """A request for *label* was declined; the pause until the next one, in seconds."""
        self._why[label] = self.why_waits(request_id, label)
        self._lack_room.discard(label)
        if self._spare is not None and self._spare.lacked_room(request_id, label):
            self._lack_room.add(label)
        loop = asyncio.get_running_loop()
        delay = self._backoff.failed(label, loop.time())
        loop.call_later(delay, self._wake)
        return delay

    def room_changed(self, _key: object) -> None:
        """There may be more room in a pool. What failed for another reason is not tried for that."""
        if not self._lack_room or self._looks_at is not None:
            return
        loop = asyncio.get_running_loop()
        self._looks_at = loop.time() + LOOK_EVERY_S
        loop.call_at(self._looks_at, self._wake)

    def begin(self) -> None:
        """From now on all labels are looked at once."""
        self._is_looking = self._looks_at is not None and asyncio.get_running_loop().time() >= self._looks_at
        if self._is_looking:
            self._looks_at = None

    def may_try(self, label: str) -> bool:
        """Whether its pause is over, or room has come."""
        if self._backoff.may_try(label, asyncio.get_running_loop().time()):
            return True
        return self._is_looking and label in self._lack_room and self._has_room(label)

    def _has_room(self, label: str) -> bool:
        return self._spare is not None and self._spare.has_room(label)

    def why_waits(self, request_id: RequestId, label: str) -> tuple[str, ...]:
        """What pools say of a request for *label*."""
        return self._spare.why(request_id, label) if self._spare is not None else ()

    def why(self, label: str) -> tuple[str, ...]:
        """What they said of the last one."""
        return self._why.get(label, ())

    def lacks_room(self, label: str) -> bool:
        """Whether room was all that was missing."""
        return label in self._lack_room

    def pause_left_s(self, label: str) -> float | None:
        """Seconds until *label* is asked for again, room or not; None: it was not declined."""
        return self._backoff.pause_left(label, asyncio.get_running_loop().time())
