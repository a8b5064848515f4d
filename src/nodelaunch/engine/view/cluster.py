"""The whole view, and how the store's trees feed it. The other files of this package have its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from nodelaunch.engine.view.events import ViewStale, ViewSynced
from nodelaunch.engine.view.images import ImageView, wants_image
from nodelaunch.engine.view.nodes import NodeView
from nodelaunch.engine.view.pools import PoolsView
from nodelaunch.engine.view.requests import RequestView
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.store import Changed, Entry, Removed, Store, Tree, TreeEvent

_BELOW_NODES = len(paths.NODES) + 1
OnChanged = Callable[[Entry], None]
OnRemoved = Callable[[str], None]


class ClusterView(NodeView, RequestView, PoolsView, ImageView):
    """The live copy. Open it with `open_view`.

    Invariant: ``is_synced`` exactly while all trees are attached and current. The first event after a stale period is
    `ViewSynced`, the last before one is `ViewStale`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trees: list[Tree] = []
        self._is_attached = False
        self._synced = asyncio.Event()

    @property
    def locked_nodes(self) -> Collection[NodeId]:
        """The nodes whose lock has a contender; live."""
        return self._node_contenders.keys()

    @property
    def locked_requests(self) -> Collection[RequestId]:
        """The requests whose lock has a contender; live."""
        return self._request_contenders.keys()

    async def synced(self) -> None:
        """Wait until the view is complete and current."""
        while not self.is_synced:
            await self._synced.wait()

    def hurry(self) -> None:
        """Read paths that `may_lag` now: they are up to date with the answer to the next read of the store."""
        for tree in self._trees:
            tree.hurry()

    def attach(self, tree: Tree, on_changed: OnChanged, on_removed: OnRemoved) -> None:
        """Feed the view from *tree*: *on_changed* is called with each present entry, *on_removed* with each path that
        was removed."""

        def on_event(event: TreeEvent) -> None:
            if type(event) is Changed:
                on_changed(event.entry)
            elif type(event) is Removed:
                on_removed(event.entry.path)
            else:
                self._update_synced()

        self._trees.append(tree)
        tree.subscribe(on_event)
        for entry in list(tree.entries()):
            on_changed(entry)

    def attached(self) -> None:
        """Note that all trees are attached."""
        self._is_attached = True
        self._update_synced()

    def _update_synced(self) -> None:
        is_synced = self._is_attached and all(tree.is_synced for tree in self._trees)
        if is_synced == self.is_synced:
            return
        self.is_synced = is_synced
        if is_synced:
            self._synced.set()
        else:
            self._synced.clear()
        event = ViewSynced() if is_synced else ViewStale()
        for listener in self._listeners[type(event)]:
            listener(event)


@asynccontextmanager
async def open_view(store: Store) -> AsyncIterator[ClusterView]:
    """Yield a view fed from *store*; entering doesn't wait until it is current."""
    view = ClusterView()
    async with AsyncExitStack() as stack:
        for root, on_changed, on_removed, wants_data in (
            (paths.REQUESTS, view.request_entry_changed, view.request_entry_removed, _always),
            (paths.REQUEST_LOCKS, view.request_lock_entry_changed, view.request_lock_entry_removed, _never),
            (paths.NODES, view.node_entry_changed, view.node_entry_removed, _is_node),
            (paths.POOLS, view.pool_entry_changed, view.pool_entry_removed, _always),
            (paths.PRESENCES, view.presence_entry_changed, view.presence_entry_removed, _always),
            (paths.KNOWN_POOLS, view.known_pool_entry_changed, view.known_pool_entry_removed, _always),
            (paths.PAUSES, view.pause_entry_changed, view.pause_entry_removed, _always),
            (paths.IMAGES, view.image_entry_changed, view.image_entry_removed, wants_image),
        ):
            may_lag = view.may_lag if root == paths.NODES else _never
            tree = await stack.enter_async_context(
                store.tree(root, wants_data=wants_data, may_lag=may_lag, keeps_data=False)
            )
            view.attach(tree, on_changed, on_removed)
        view.attached()
        yield view


def _always(_path: str) -> bool:
    return True


def _never(_path: str) -> bool:
    return False


def _is_node(path: str) -> bool:
    """Return True if *path* is a node's, below `paths.NODES`: lock directories and contenders are only counted, never
    read."""
    return "/" not in path[_BELOW_NODES:]
