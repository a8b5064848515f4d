"""The copy of a tree that stores without a server keep."""

from __future__ import annotations

from typing import Any

from nodelaunch.protocol.store import Entry, Stat
from nodelaunch.store.shared import TreeCopy


def an_entry(path: str) -> Entry:
    return Entry(path, b"", Stat(0, 1, 1, 0.0, 0.0))


def test_copy_of_a_tree_forgets_what_has_no_children_any_more() -> None:
    tree: Any = TreeCopy("/n", lambda _path: True)
    for number in range(3):
        tree.put_entry(an_entry(f"/n/{number}"))
        tree.put_entry(an_entry(f"/n/{number}/lock"))
    assert sorted(tree.children("/n")) == ["0", "1", "2"]
    for number in range(3):
        tree.drop_entry(f"/n/{number}/lock")
        tree.drop_entry(f"/n/{number}")
    assert tree.children("/n/0") == frozenset()
    assert tree._children == {}
