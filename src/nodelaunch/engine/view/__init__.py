"""The launcher's view of the cluster: requests, nodes, locks, registered pools, images; decoded once per version.

Trees of the store feed it; everything in the engine reads it, synchronously. A listener is notified of a change right
after it happened, while the view is current; `ViewSynced` stands for all changes from the time when it was not. A
record that can't be read is logged once, left alone, and not shown. The view makes no decision and no write.
"""

from nodelaunch.engine.view.cluster import ClusterView, open_view
from nodelaunch.engine.view.events import (
    IdleNodeGone,
    IdleNodeSeen,
    ImagesChanged,
    Listener,
    MinReadyRequestChanged,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    PausesChanged,
    PoolsChanged,
    PresencesChanged,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
    Versioned,
    ViewEvent,
    ViewStale,
    ViewSynced,
)
from nodelaunch.engine.view.sums import ON_THE_WAY_OUT

__all__ = [
    "ON_THE_WAY_OUT", "ClusterView", "IdleNodeGone", "IdleNodeSeen", "ImagesChanged", "Listener",
    "MinReadyRequestChanged", "NodeRemoved", "NodeSeen", "NodeUnlocked", "PausesChanged", "PoolsChanged",
    "PresencesChanged", "RequestRemoved", "RequestSeen", "RequestUnlocked", "Versioned", "ViewEvent", "ViewStale",
    "ViewSynced", "open_view",
]  # fmt: skip
