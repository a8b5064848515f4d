"""States of node requests and nodes, and the edges between them, each with its reason.

Peers raise on any other state, so private progress is never put into one. Source: Nodepool 11, its state lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
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


_R = RequestState
REQUEST_EDGES: Final[Mapping[tuple[RequestState, RequestState], str]] = MappingProxyType({
    (_R.REQUESTED, _R.PENDING): "a pool accepts",
    (_R.REQUESTED, _R.REQUESTED): "a pool declines, or the requestor revises the relative priority",
    (_R.REQUESTED, _R.FAILED): "the last registered pool declines",
    (_R.PENDING, _R.FULFILLED): "all nodes are ready",
    (_R.PENDING, _R.REQUESTED): "a node failed, the pool hands it back, or its launcher is gone",
    (_R.PENDING, _R.FAILED): "a node failed and every registered pool has declined",
})  # fmt: skip
"""Edges a launcher may take, always under the request's lock."""

REQUEST_FINAL: Final = frozenset({_R.FULFILLED, _R.FAILED})
"""States after which only the requestor touches a request."""

_N = NodeState
NODE_EDGES: Final[Mapping[tuple[NodeState, NodeState], str]] = MappingProxyType({
    (_N.INIT, _N.BUILDING): "the pool that made the record has locked it",
    (_N.INIT, _N.DELETING): "its maker died between create and lock",
    (_N.BUILDING, _N.READY): "the instance runs and its host keys are known",
    (_N.BUILDING, _N.FAILED): "launch attempts are exhausted",
    (_N.BUILDING, _N.ABORTED): "the cloud has no quota, or the request went away",
    (_N.BUILDING, _N.DELETING): "its launcher is gone",
    (_N.READY, _N.READY): "allocated, or given back unused",
    (_N.READY, _N.IN_USE): "a user took it",
    (_N.READY, _N.HOLD): "an operator holds it",
    (_N.READY, _N.DELETING): "too old, in the way, unreachable, or not configured any more",
    (_N.IN_USE, _N.USED): "its user returned it",
    (_N.IN_USE, _N.HOLD): "its user keeps it for a person",
    (_N.IN_USE, _N.DELETING): "its user is gone",
    (_N.HOLD, _N.USED): "the hold was lifted",
    (_N.HOLD, _N.DELETING): "held for too long",
    (_N.USED, _N.DELETING): "to be deleted",
    (_N.FAILED, _N.DELETING): "to be deleted",
    (_N.ABORTED, _N.DELETING): "to be deleted",
    (_N.DELETED, _N.DELETING): "its deleter died before the record was removed",
    (_N.DELETING, _N.DELETING): "an earlier deletion did not finish",
    (_N.DELETING, _N.DELETED): "the instance is gone",
})  # fmt: skip

ABANDONED_WHEN_UNLOCKED: Final = frozenset(
    {_N.BUILDING, _N.IN_USE, _N.USED, _N.FAILED, _N.ABORTED, _N.DELETING, _N.DELETED}
)
"""A node in one of these states belongs to its holder while it is locked, and has to be deleted as soon as it is not:
this is the only way in which a launcher learns that an executor or another launcher died."""
