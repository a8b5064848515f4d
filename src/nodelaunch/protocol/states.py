"""States of node requests and nodes, and the transitions between them, each with its reason.

Peers raise on any other state, so the launcher's own progress is never stored as a state. Source: Nodepool 11, its
state lists.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RequestState(StrEnum):
    REQUESTED = "requested"
    PENDING = "pending"
    FULFILLED = "fulfilled"
    FAILED = "failed"


class NodeState(StrEnum):
    INIT = "init"
    BUILDING = "building"
    TESTING = "testing"
    READY = "ready"
    IN_USE = "in-use"
    USED = "used"
    HOLD = "hold"
    DELETING = "deleting"
    FAILED = "failed"
    ABORTED = "aborted"
    DELETED = "deleted"


class ComponentState(StrEnum):
    INITIALIZING = "initializing"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class ImageState(StrEnum):
    BUILDING = "building"
    UPLOADING = "uploading"
    READY = "ready"
    DELETING = "deleting"
    FAILED = "failed"


REQUEST_FINAL: Final = frozenset({RequestState.FULFILLED, RequestState.FAILED})
"""Final states: from here on, only the requestor changes the request."""

_N = NodeState
ABANDONED_WHEN_UNLOCKED: Final = frozenset(
    {_N.BUILDING, _N.IN_USE, _N.USED, _N.FAILED, _N.ABORTED, _N.DELETING, _N.DELETED}
)
"""A node in one of these states belongs to the holder of its lock, and is abandoned when the lock is released or lost.
This is the only way in which a launcher learns that an executor or another launcher died. Abandoned nodes are deleted,
but a launch that was interrupted may be resumed for a minute (engine/cleanup/abandoned.py)."""
