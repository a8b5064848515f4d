"""Judges a drill by what ZooKeeper committed and what the cloud did; the launchers' own word counts for nothing.

What does *not* belong here: how the history was made (test_drill.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from support import discipline
from support.discipline import Contenders, kind_of
from support.txnlog import Write

REGISTRATIONS = ("/nodepool/components/pool/", "/nodelaunch/launchers/")


class Use(NamedTuple):
    """Time in which *user* saw a node in use; wall times, as in the cloud's log."""

    node: str
    user: str
    began: float
    ended: float


def launchers_in(history: Iterable[Write]) -> set[int]:
    """The sessions that registered a pool or a launcher."""
    return {write.session for write in history if write.kind == "create" and write.path.startswith(REGISTRATIONS)}


def faults(
    history: Sequence[Write], log: Sequence[Mapping[str, Any]], max_servers: int, uses: Sequence[Use] = ()
) -> list[str]:
    """Return all violations: in the records, in their writers, and in the cloud."""
    return [
        *discipline.faults(history, launchers_in(history)),
        *_handed_out_twice(history),
        *_used_unlocked(history),
        *_too_many(log, max_servers),
        *_used_by_two(uses),
        *_taken_away(uses, log),
    ]


def _handed_out_twice(history: Iterable[Write]) -> Iterable[str]:
    """Nodes that two fulfilled requests have at the same time, or that are given out again when they were in use."""
    owners: dict[str, str] = {}
    in_use: set[str] = set()
    for write in history:
        kind, name = kind_of(write.path), write.path.rpartition("/")[2]
        if kind == "requests" and write.kind == "delete":
            owners = {node: owner for node, owner in owners.items() if owner != name}
        elif kind == "requests" and write.data and write.record["state"] == "fulfilled":
            for node in write.record["nodes"]:
                if owners.setdefault(node, name) != name:
                    yield f"node {node} is given to {name} at {write.zxid} while {owners[node]} has it"
                if node in in_use:
                    yield f"node {node} is given to {name} at {write.zxid} though it was in use before"
        elif kind == "nodes" and write.data and write.record["state"] == "in-use":
            in_use.add(name)
        elif kind == "nodes" and write.data and write.record["state"] == "ready" and name in in_use:
            yield f"node {name} is ready again at {write.zxid} though it was in use before"


def _used_unlocked(history: Iterable[Write]) -> Iterable[str]:
    """Nodes that are held by two: written in-use by a session that is not first at their lock, or by two sessions."""
    contenders, users = Contenders(), dict[str, int]()
    for write in history:
        if kind_of(write.path) == "nodes" and write.kind == "set" and write.record["state"] == "in-use":
            name = write.path.rpartition("/")[2]
            if not contenders.holds(write.session, "nodes", name):
                yield f"node {name} is taken into use at {write.zxid} without its lock"
            if users.setdefault(name, write.session) != write.session:
                yield f"node {name} is taken into use at {write.zxid} by a second session"
        contenders.follow(write)


def _too_many(log: Iterable[Mapping[str, Any]], max_servers: int) -> Iterable[str]:
    """Moments at which the cloud has more instances than the pool may."""
    there: set[str] = set()
    for entry in log:
        if entry["what"] == "create":
            there.add(entry["id"])
            if len(there) > max_servers:
                yield f"{len(there)} instances at {entry['at']:.2f} where {max_servers} may be: {entry['node_id']}"
        elif entry["what"] == "gone":
            there.discard(entry["id"])


def _used_by_two(uses: Iterable[Use]) -> Iterable[str]:
    """Nodes that two had at the same time, or one after the other: a node is used once."""
    first: dict[str, Use] = {}
    for use in uses:
        if (other := first.setdefault(use.node, use)) is not use:
            yield f"node {use.node} is used by {other.user} and by {use.user}: {other} {use}"


def _taken_away(uses: Iterable[Use], log: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Nodes in use whose instance was not there, or whose last one's deletion began meanwhile."""
    of_node: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in log:
        of_node[entry["node_id"]].append(entry)
    for use in uses:
        alive = set[str]()
        for entry in of_node[use.node]:
            if (entry["at"] > use.began and not alive) or entry["at"] >= use.ended:
                break
            if entry["what"] == "create":
                alive.add(entry["id"])
            elif entry["what"] in ("deleting", "gone"):
                alive.discard(entry["id"])
        if not alive:
            yield f"node {use.node} has no instance, or loses it, while it is in use: {use} {of_node[use.node]}"
