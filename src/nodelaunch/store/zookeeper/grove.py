"""Finds the open trees that a path belongs to."""

from __future__ import annotations

from typing import Final

from nodelaunch.protocol.store import Entry
from nodelaunch.store.zookeeper.tree import ZkTree, unread

MAX_ROUTES: Final = 1000
"""Routes that are remembered; there are more only if a tree is rooted so high that each of its paths is one."""


class Grove:
    """The open trees, by the first two names of the paths they cover."""

    def __init__(self) -> None:
        self.trees: list[ZkTree] = []
        self._routes: dict[str, tuple[ZkTree, ...]] = {}
        """Filled on demand."""

    def add(self, tree: ZkTree) -> None:
        self.trees.append(tree)
        self._routes.clear()

    def remove(self, tree: ZkTree) -> None:
        self.trees.remove(tree)
        self._routes.clear()

    def covering(self, path: str) -> tuple[ZkTree, ...]:
        """Return the trees that *path* is in."""
        end = path.find("/", path.find("/", 1) + 1)
        key = path[:end] if end > 0 else path
        trees = self._routes.get(key)
        if trees is None:
            trees = self._find_route(key)
        if not trees or (len(trees) == 1 and path.startswith(trees[0].prefix)):
            return trees
        return tuple(tree for tree in trees if path.startswith(tree.prefix))

    def _find_route(self, key: str) -> tuple[ZkTree, ...]:
        """Return the trees at, above or below *key*."""
        below = f"{key}/"
        trees = tuple(tree for tree in self.trees if tree.prefix.startswith(below) or below.startswith(tree.prefix))
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        self._routes[key] = trees
        return trees

    def knows(self, path: str) -> bool | None:
        """Return True if *path* exists, as far as the trees know; None: no complete tree covers it."""
        for tree in self.covering(path):
            if tree.is_synced:
                return tree.get(path) is not None
        return None

    def put(self, entry: Entry) -> None:
        """Put *entry*, which was read, or written by this process, into its trees."""
        for tree in self.covering(entry.path):
            tree.put(entry, is_wanted=tree.wants_data(entry.path))

    def put_unread(self, path: str) -> None:
        """Note that *path* exists; no tree wants its data."""
        for tree in self.covering(path):
            tree.put(unread(path), is_wanted=False)

    def drop(self, path: str) -> None:
        for tree in self.covering(path):
            tree.drop(path)
