"""The choice of the version of the contract that a launcher and a driver both speak."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Versions(Protocol):
    """The first and last version that one end speaks."""

    @property
    def min(self) -> int: ...

    @property
    def max(self) -> int: ...


class Spoken(NamedTuple):
    """`Versions` for code that must not import the models of the wire."""

    min: int
    max: int


class VersionMismatchError(Exception):
    """There is no common version; the message says which side to upgrade."""


def choose_version(ours: Versions, theirs: Versions, *, driver: str) -> int:
    """Return the highest version that a launcher (*ours*) and *driver* both speak. Raises: VersionMismatchError."""
    best = min(ours.max, theirs.max)
    if best >= max(ours.min, theirs.min):
        return best
    who = "upgrade the driver" if theirs.max < ours.min else "upgrade nodelaunch"
    raise VersionMismatchError(
        f"driver {driver} speaks {_in_words(theirs)} of the driver contract, this nodelaunch {_in_words(ours)}: {who}"
    )


def _in_words(versions: Versions) -> str:
    return f"version {versions.min}" if versions.min == versions.max else f"versions {versions.min} to {versions.max}"
