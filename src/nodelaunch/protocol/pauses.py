"""Pauses: an operator's order to launchers not to use a target, kept in the store until it is removed.

The target is a provider, one of its pools, or a launcher. A paused target takes no new request and launches no node;
with `Pause.drains` it also discards its idle nodes. operations/pauses.py writes pauses, and decisions/triage.py applies
them to requests.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple, Self

from nodelaunch.protocol.recordcoding import Flag, Number, Record, Text


class TargetKind(Enum):
    """The kinds of targets that can be paused."""

    PROVIDER = "provider"
    POOL = "pool"
    LAUNCHER = "launcher"


class Target(NamedTuple):
    """The target of a pause."""

    kind: TargetKind
    name: str
    """A provider's name; ``PROVIDER/POOL``; a launcher's host name, or the id of its process."""

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"

    @property
    def explicit(self) -> str:
        """The target's name with its kind, so that it can't be mistaken for another."""
        return f"{self.kind.value}:{self.name}"

    def concerns(self, other: Target) -> bool:
        """Return True if a pause of this target also pauses *other*, or a part of *other*."""
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
    """The stored record of one pause."""

    target: Target
    drains: Flag = False
    """True if idle nodes are discarded too."""
    by: Text = None
    """User and host of the operator who paused."""
    at: Number = 0.0
    """Seconds since 1970."""
    reason: Text = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, target: Target) -> Self:
        """*target*: as `paths.pause_at` finds it in *path*. Raises: RecordInvalidError."""
        return cls._read(path, data, target=target)

    def to_json(self) -> dict[str, object]:
        """Return the pause as JSON."""
        return {
            "kind": self.target.kind.value, "name": self.target.name, "state": self.word, "by": self.by, "at": self.at,
            "reason": self.reason,
        }  # fmt: skip

    @property
    def word(self) -> str:
        return "draining" if self.drains else "paused"

    def __str__(self) -> str:
        """Return a sentence: the target, since when it is paused, by whom and why."""
        try:
            since = f"{datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M} UTC"
        except (ValueError, OverflowError, OSError):
            since = "an unknown time"
        by = f" by {self.by}" if self.by else ""
        return f"{self.target} is {self.word} since {since}{by}" + (f": {self.reason}" if self.reason else "")
