"""Decides which slot is assigned next, and which backing node is released. Pure: no waiting, no writes, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from math import inf

from nodelaunch.drivers.metastatic.config import MetastaticLabel
from nodelaunch.protocol.cluster import Backing

Slot = tuple[str, int]
"""Id of a backing node and the number of one of its slots."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to do before *until*, in seconds since 1970."""

    until: float = inf


@dataclass(frozen=True, slots=True)
class Fail:
    """The backing node is too old: no new nodes on it."""


@dataclass(frozen=True, slots=True)
class Release:
    """The backing node is no longer needed."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The backing node belongs to another owner now."""


Fate = Keep | Fail | Release | Forget


def free_slots(
    backings: Iterable[Backing], label: MetastaticLabel, now: float, *, but: Collection[Slot] = ()
) -> Iterator[tuple[Backing, int]]:
    """Return the free slots for the next node of *label*, without *but*: old backing nodes are filled first."""
    for backing in backings:
        is_wanted = backing.lease.label == label.name and backing.node is not None and not backing.lease.is_failed
        if is_wanted and not _is_too_old(backing, label, now):
            yield from ((backing, number) for number in backing.free_slots if (backing.id, number) not in but)


def fate_of(backing: Backing, label: MetastaticLabel | None, now: float) -> Fate:
    """Return the action for *backing*. *label* is the label's configuration, or None if it was removed."""
    if backing.node is None:
        return Forget()
    if label is None or backing.lease.is_failed:
        return Release() if backing.is_empty else Keep()
    if _is_too_old(backing, label, now):
        return Fail()
    too_old_at = inf if label.max_age is None else backing.lease.launched_at + label.max_age
    if not backing.is_empty:
        return Keep(too_old_at)
    unused_at = backing.lease.used_at + label.grace_time
    goes_at = max(unused_at, backing.lease.launched_at + label.min_retention_time)
    return Release() if now >= goes_at else Keep(min(goes_at, too_old_at))


def _is_too_old(backing: Backing, label: MetastaticLabel, now: float) -> bool:
    return label.max_age is not None and now - backing.lease.launched_at >= label.max_age
