"""Decides whether a write whose reply was lost was done, from the znodes found after reconnecting.

Pure functions. recovery.py reads the znodes, and repeats the writes that were not done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from msgspec.structs import replace

from nodelaunch.protocol.store import ANY_VERSION, Create, Delete, Entry, Put, Stat
from nodelaunch.store.zookeeper.wire import PlainOp

CONTENDER_MARK = "__lock__"
"""The end of a contender's name, before the number; a random part before it makes the name unique."""


class WriteOutcome(Enum):
    """The outcomes of a write that has no results."""

    NOT_DONE = "not done"
    UNKNOWN = "unknown"


Outcome = list[Entry | None] | WriteOutcome


@dataclass(frozen=True, slots=True)
class Doubt:
    """A write without a reply. ``since``: the highest zxid known when the connection broke.

    Replies come in order, so every write with a reply by then has a lower zxid than this write can have.
    """

    ops: Sequence[PlainOp]
    since: int


@dataclass(frozen=True, slots=True)
class FoundState:
    """The znodes found. ``numbered``: for each sequential create, by its path, the recently created znodes there."""

    entries: Mapping[str, Entry | None]
    numbered: Mapping[str, Sequence[Entry]] = field(default_factory=dict)
    session_id: int = 0


def paths_in(doubts: Iterable[Doubt]) -> list[str]:
    """Return the paths whose entries have to be found."""
    return list({
        op.path: None
        for doubt in doubts
        for op in doubt.ops
        if not (isinstance(op, Create) and op.sequence)
    })  # fmt: skip


def numbered_in(doubts: Iterable[Doubt]) -> dict[str, int]:
    """Return the sequential creates by path, and the zxid after which their znodes can have been made."""
    since: dict[str, int] = {}
    for doubt in doubts:
        for op in doubt.ops:
            if isinstance(op, Create) and op.sequence:
                since[op.path] = min(doubt.since, since.get(op.path, doubt.since))
    return since


def candidates(prefix: str, names: Iterable[str]) -> list[str]:
    """Return the paths among the children *names* that a sequential create at *prefix* can have made, the latest
    first."""
    parent, _, start = prefix.rpartition("/")
    size = len(start)
    numbers = [name for name in names if name.startswith(start) and len(name) == size + 10 and name[size:].isdigit()]
    return [f"{parent}/{name}" for name in sorted(numbers, key=lambda name: name[size:], reverse=True)]


def judge(doubts: Sequence[Doubt], found: FoundState) -> list[Outcome]:
    """Return the outcome of each of *doubts*, in the order in which they were sent.

    Equal sequential creates get different znodes: the server made them in the order in which they were sent.
    """
    claimed: set[str] = set()
    return [_judge(doubt, found, claimed) for doubt in doubts]


def _judge(doubt: Doubt, found: FoundState, claimed: set[str]) -> Outcome:
    """Let the first conclusive operation decide; operations that only this process can have done are asked first."""
    made_anew = {op.path for op in doubt.ops if isinstance(op, Create)}
    for op in sorted(doubt.ops, key=_weakness):
        if isinstance(op, Delete) and op.path in made_anew:
            continue
        zxid = _witness(op, doubt.since, found, claimed)
        if zxid is False:
            return WriteOutcome.NOT_DONE
        if zxid is not None:
            return _results(doubt.ops, zxid, found, claimed)
    return WriteOutcome.UNKNOWN


def _weakness(op: PlainOp) -> int:
    if CONTENDER_MARK in op.path:
        return 0
    if isinstance(op, Create | Put):
        return 1
    return 2


def _witness(op: PlainOp, since: int, found: FoundState, claimed: set[str]) -> int | None:
    """Return the zxid if *op* shows that its transaction was done; False if it was not done; None: inconclusive."""
    if isinstance(op, Create) and op.sequence:
        made = _claimable(op, since, found, claimed)
        return made[0].stat.created_zxid if made else False
    entry = found.entries.get(op.path)
    if isinstance(op, Create):
        return _witness_create(op, entry, since, found.session_id)
    if isinstance(op, Put):
        return _witness_put(op, entry, since)
    if isinstance(op, Delete):
        if entry is None:
            return since + 1
        return None if entry.stat.created_zxid > since else False
    return None


def _witness_create(op: Create, entry: Entry | None, since: int, session_id: int) -> int | None:
    if entry is None or entry.stat.created_zxid <= since:
        return False
    is_ours = entry.stat.owner == (session_id if op.ephemeral else 0)
    return entry.stat.created_zxid if is_ours and (entry.data == op.data or entry.stat.version > 0) else False


def _witness_put(op: Put, entry: Entry | None, since: int) -> int | None:
    if entry is None:
        return None
    if entry.stat.modified_zxid <= since:
        return False
    if op.version == ANY_VERSION:
        return entry.stat.modified_zxid if entry.data == op.data else None
    if entry.stat.version == op.version + 1:
        return entry.stat.modified_zxid if entry.data == op.data else False
    return None if entry.stat.version > op.version else False


def _claimable(op: Create, since: int, found: FoundState, claimed: set[str]) -> list[Entry]:
    """Return the znodes that the sequential create *op* can have made, the lowest number first."""
    owner = found.session_id if op.ephemeral else 0
    return [
        entry
        for entry in sorted(found.numbered.get(op.path, ()), key=lambda entry: entry.path[-10:])
        if entry.path not in claimed
        and entry.stat.created_zxid > since
        and entry.stat.owner == owner
        and (entry.data == op.data or (op.ephemeral and entry.stat.version > 0))
    ]


def _results(ops: Sequence[PlainOp], zxid: int, found: FoundState, claimed: set[str]) -> Outcome:
    results: list[Entry | None] = []
    for op in ops:
        if isinstance(op, Create) and op.sequence:
            made = [entry for entry in _claimable(op, zxid - 1, found, claimed) if entry.stat.created_zxid == zxid]
            if not made:
                return WriteOutcome.UNKNOWN
            claimed.add(made[0].path)
            results.append(_as_written(op, made[0], 0))
        elif isinstance(op, Create):
            results.append(_as_written(op, found.entries.get(op.path), 0))
        elif isinstance(op, Put):
            results.append(_as_written(op, found.entries.get(op.path), op.version + 1 if op.version >= 0 else None))
        else:
            results.append(None)
    return results


def _as_written(op: Create | Put, entry: Entry | None, version: int | None) -> Entry:
    """Return the entry as *op* wrote it, even if a peer has changed or deleted it since."""
    if entry is None:
        return Entry(op.path, op.data, Stat(version or 0, 0, 0, 0.0, 0.0), op.record)
    stat = entry.stat
    if version is not None and version != stat.version:
        stat = replace(stat, version=version)
    return Entry(entry.path, op.data, stat, op.record)
