"""Permitted transitions between states, with reasons: every write of a record is checked against these tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nodelaunch.protocol.states import NodeState as N
from nodelaunch.protocol.states import RequestState as R

REQUEST_MOVES: Final[Mapping[tuple[R, R], str]] = {
    (R.REQUESTED, R.PENDING): "a pool accepts",
    (R.REQUESTED, R.REQUESTED): "a pool declines",
    (R.REQUESTED, R.FAILED): "the last registered pool declines",
    (R.PENDING, R.FULFILLED): "all nodes are ready",
    (R.PENDING, R.REQUESTED): "a node failed, the pool hands the request back, or its launcher is gone",
    (R.PENDING, R.FAILED): "a node failed and every registered pool has declined",
}
"""Transitions of a request that a launcher may write, always under its lock."""
LAUNCHER_MOVES: Final[Mapping[tuple[N, N], str]] = {
    (N.INIT, N.BUILDING): "the pool that made the record has locked it",
    (N.INIT, N.DELETING): "the launcher died between create and lock",
    (N.BUILDING, N.BUILDING): "the instance has its id, or a later launch attempt begins",
    (N.BUILDING, N.READY): "the instance runs and its host keys are known",
    (N.BUILDING, N.FAILED): "the launch attempts are exhausted",
    (N.BUILDING, N.ABORTED): "the cloud has no quota, or the request is gone",
    (N.BUILDING, N.DELETING): "the launcher is gone",
    (N.READY, N.READY): "allocated, or given back unused",
    (N.READY, N.DELETING): "too old, over the limit, unreachable, or not configured any more",
    (N.IN_USE, N.DELETING): "the user is gone",
    (N.USED, N.DELETING): "used nodes are deleted",
    (N.HOLD, N.DELETING): "held for too long",
    (N.FAILED, N.DELETING): "failed nodes are deleted",
    (N.ABORTED, N.DELETING): "aborted nodes are deleted",
    (N.DELETING, N.DELETING): "an earlier deletion did not finish",
    (N.DELETING, N.DELETED): "the instance is gone",
    (N.DELETED, N.DELETING): "the launcher died before it removed the record",
    (N.DELETED, N.DELETED): "as before",
}
"""Transitions of a node that a launcher may write, always under its lock."""
USER_MOVES: Final[Mapping[tuple[N, N], str]] = {
    (N.READY, N.IN_USE): "a user takes the node",
    (N.READY, N.HOLD): "an operator holds the node",
    (N.READY, N.DELETING): "an operator deletes the node",
    (N.IN_USE, N.USED): "the user returns the node",
    (N.IN_USE, N.HOLD): "the user keeps the node for a person",
    (N.HOLD, N.USED): "the hold is lifted",
    (N.HOLD, N.DELETING): "an operator deletes the node",
}
"""Transitions of a node that users and operators may write."""
