"""Pauses: what an operator has told launchers to leave alone for a while, kept in the store until it is taken back.

A pause is of a provider, of one of its pools, or of a launcher. What is paused takes no request that is not under way
and makes no node for one; with `Pause.drains` it lets go of its idle nodes besides.
What does *not* belong here: who writes a pause (operations/pauses.py), and what follows for a request (triage.py).
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple, Self

from nodelaunch.protocol.recordcoding import Flag, Number, Record, Text


class TargetKind(Enum):
    """What can be paused."""

    PROVIDER = "provider"
    POOL = "pool"
    LAUNCHER = "launcher"


class Target(NamedTuple):
    """What a pause is of."""

    kind: TargetKind
    name: str
    """Of a provider; ``PROVIDER/POOL``; a launcher's host name, or the id of its process."""

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"

    @property
    def explicit(self) -> str:
        """As it is named where it must not be mistaken for another."""
        return f"{self.kind.value}:{self.name}"

    def concerns(self, other: Target) -> bool:
        """Whether a pause of this is one of *other*, or of a part of it, too."""
        kinds = {self.kind, other.kind}
        if self == other or kinds != {TargetKind.PROVIDER, TargetKind.POOL}:
            return self == other
        return self.name.partition("/")[0] == other.name.partition("/")[0]

    @classmethod
    def provider(cls, name: str) -> Target:
        return cls(TargetKind.PROVIDER, name)

    @classmethod
    def pool(cls, provider: str, pool: str) -> Target:
        return cls(TargetKind.POOL, f"{provider}/{pool}")

    @classmethod
    def launcher(cls, name: str) -> Target:
        return cls(TargetKind.LAUNCHER, name)


class Pause(Record, frozen=True):
    """What is kept in the store of one pause."""

    target: Target
    drains: Flag = False
    """Whether idle nodes are let go of, too."""
    by: Text = None
    """Who paused it: user and host."""
    at: Number = 0.0
    """Seconds since 1970."""
    reason: Text = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, target: Target) -> Self:
        """*target*: as `paths.pause_at` finds it in *path*. Raises: RecordInvalidError."""
        return cls._read(path, data, target=target)

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "kind": self.target.kind.value, "name": self.target.name, "state": self.word, "by": self.by, "at": self.at,
            "reason": self.reason,
        }  # fmt: skip

    @property
    def word(self) -> str:
        return "draining" if self.drains else "paused"

    def __str__(self) -> str:
        """What is paused, since when, by whom and why."""
        try:
            since = f"{datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M} UTC"
        except (ValueError, OverflowError, OSError):
            since = "an unknown time"
        by = f" by {self.by}" if self.by else ""
        return f"{self.target} is {self.word} since {since}{by}" + (f": {self.reason}" if self.reason else "")
