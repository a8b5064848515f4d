"""What this launcher knows of the cluster: requests, nodes, locks, registered pools, images; decoded once per version.

Fed by trees of the store, read by everything in the engine, synchronously. A listener is told what changed right after
it changed, while the view is warm; of what changed while it was not, `ViewWarmed` tells all at once. A record that
can't be read is logged once, left alone, and not shown.

What does *not* belong here: any decision, any write.
"""

from nodelaunch.engine.view.cluster import ClusterView, open_view
from nodelaunch.engine.view.notes import (
    IdleNodeGone,
    IdleNodeSeen,
    ImagesChanged,
    Listener,
    MinReadyRequestChanged,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    Note,
    PausesChanged,
    PoolsChanged,
    PresencesChanged,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
    Seen,
    ViewCooled,
    ViewWarmed,
)
from nodelaunch.engine.view.sums import ON_THE_WAY_OUT

__all__ = [
    "ON_THE_WAY_OUT", "ClusterView", "IdleNodeGone", "IdleNodeSeen", "ImagesChanged", "Listener",
    "MinReadyRequestChanged",
    "NodeRemoved", "NodeSeen", "NodeUnlocked", "Note",
    "PausesChanged", "PoolsChanged", "PresencesChanged", "RequestRemoved", "RequestSeen", "RequestUnlocked", "Seen",
    "ViewCooled", "ViewWarmed", "open_view",
]  # fmt: skip
