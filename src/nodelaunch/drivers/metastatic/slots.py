"""Decides, of backing nodes as they are seen: which slot is given next, and which node is to go.

What does *not* belong here: any waiting, any write; and time but as a number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from math import inf

from nodelaunch.drivers.metastatic.config import MetastaticLabel
from nodelaunch.protocol.cluster import Backing

Slot = tuple[str, int]
"""A backing node's id, and the number of one of its slots."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing is to be done before *until*, in seconds since 1970."""

    until: float = inf


@dataclass(frozen=True, slots=True)
class Fail:
    """It is too old: no new nodes on it."""


@dataclass(frozen=True, slots=True)
class Release:
    """Nobody needs it any more."""


@dataclass(frozen=True, slots=True)
class Forget:
    """It is not ours any more."""


Fate = Keep | Fail | Release | Forget


def free_slots(
    backings: Iterable[Backing], label: MetastaticLabel, now: float, *, but: Collection[Slot] = ()
) -> Iterator[tuple[Backing, int]]:
    """Slots that *label*'s next node may get, best first, without those in *but*: old nodes are filled first."""
    for backing in backings:
        is_wanted = backing.lease.label == label.name and backing.node is not None and not backing.lease.is_failed
        if is_wanted and not _is_too_old(backing, label, now):
            yield from ((backing, number) for number in backing.free_slots if (backing.id, number) not in but)


def fate_of(backing: Backing, label: MetastaticLabel | None, now: float) -> Fate:
    """What is to become of *backing*, whose label is configured as *label*; None: not any more."""
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
