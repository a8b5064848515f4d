"""A tree of znodes in memory, with ZooKeeper's rules for versions, sequence numbers and ephemerals.

A transaction is applied as a whole or not at all, and returns its changes. store.py has sessions and locks, and
journal.py stores the changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from nodelaunch.errors import NotEmptyError, RecordExistsError, RecordGoneError, StoreError, VersionConflictError
from nodelaunch.protocol.store import ANY_VERSION, CheckVersion, Create, Delete, Entry, Put, Stat

MAX_DATA = 1 << 20
"""Most bytes in one znode: about ZooKeeper's default limit."""

PlainOp = Create | Put | Delete | CheckVersion
_K = TypeVar("_K")


@dataclass(slots=True)
class Znode:
    """A znode as it is stored; replaced, never changed. ``cversion`` counts all children ever created below it."""

    entry: Entry
    cversion: int = 0


@dataclass(slots=True)
class Change:
    """The change of one path: ``new`` is None if it was deleted, ``old`` if it was created.

    A parent that got a child has the same entry in both.
    """

    path: str
    old: Znode | None
    new: Znode | None


@dataclass(slots=True)
class ZnodeTree:
    """All znodes by path. The root always exists."""

    zxid: int = 0
    _nodes: dict[str, Znode] = field(default_factory=lambda: {"/": Znode(Entry("/", b"", Stat(0, 0, 0, 0.0, 0.0)))})
    _children: dict[str, set[str]] = field(default_factory=dict)
    _owned: dict[int, set[str]] = field(default_factory=dict)
    """Paths of ephemerals by the session that owns them."""

    def load(self, nodes: Iterable[Znode], zxid: int) -> None:
        """Take over the stored znodes."""
        self.zxid = zxid
        for node in nodes:
            self._set(node.entry.path, node)

    def find(self, path: str) -> Entry | None:
        node = self._nodes.get(path)
        return node.entry if node else None

    def children(self, path: str) -> list[str]:
        """Return the names of the children, sorted. Raises: RecordGoneError."""
        if path not in self._nodes:
            raise RecordGoneError(path)
        return sorted(self._children.get(path, ()))

    def below(self, root: str) -> list[Entry]:
        """Return every entry below *root*, parents first."""
        found = []
        todo = [root]
        while todo:
            path = todo.pop()
            for name in sorted(self._children.get(path, ()), reverse=True):
                child = join(path, name)
                found.append(self._nodes[child].entry)
                todo.append(child)
        return found

    def owned_by(self, owner: int) -> list[str]:
        """Return the paths of the ephemerals of one session."""
        return list(self._owned.get(owner, ()))

    def ephemerals(self) -> list[str]:
        return [path for paths in self._owned.values() for path in paths]

    # -- changing ---------------------------------------------------------------------------------------------------

    def next_at(self, path: str) -> str | None:
        """Return the path that a sequential create at *path* would make now; None when the parent is missing."""
        above = self._nodes.get(path.rpartition("/")[0] or "/")
        return f"{path}{above.cversion:010d}" if above is not None else None

    def apply(self, ops: Sequence[PlainOp], *, owner: int, now: float) -> tuple[list[Entry | None], list[Change]]:
        """Perform *ops* in order. Return their results, and the changes. Raises the error of the first operation that
        fails; then nothing is changed."""
        changes: list[Change] = []
        self.zxid += 1
        try:
            results = [self._perform(op, owner, now, changes) for op in ops]
        except BaseException:
            self.undo(changes)
            self.zxid -= 1
            raise
        return results, changes

    def redo(self, changes: Iterable[Change]) -> None:
        """Apply *changes* that were made in another copy."""
        for change in changes:
            self._set(change.path, change.new)

    def undo(self, changes: Sequence[Change]) -> None:
        """Revert *changes*, which have to be the newest ones."""
        for change in reversed(changes):
            self._set(change.path, change.old)

    def _perform(self, op: PlainOp, owner: int, now: float, changes: list[Change]) -> Entry | None:
        kind = type(op)
        if kind is Create:
            return self._create(op, owner, now, changes)  # type: ignore[arg-type]
        node = self._at_version(op.path, op.version)  # type: ignore[union-attr]
        if kind is Put:
            return self._put(op, node, now, changes)  # type: ignore[arg-type]
        if kind is Delete:
            if self._children.get(op.path) or op.path == "/":
                raise NotEmptyError(op.path)
            self._change(op.path, node, None, changes)
        return None

    def _put(self, op: Put, node: Znode, now: float, changes: list[Change]) -> Entry:
        path, data, was = op.path, op.data, node.entry.stat
        if len(data) > MAX_DATA:
            raise _too_large(path, data)
        stat = Stat(was.version + 1, was.created_zxid, self.zxid, was.created_at, now, was.owner)
        entry = Entry(path, data, stat, op.record)
        self._change(path, node, Znode(entry, node.cversion), changes)
        return entry

    def _create(self, op: Create, owner: int, now: float, changes: list[Change]) -> Entry:
        path, data, zxid = op.path, op.data, self.zxid
        if len(data) > MAX_DATA:
            raise _too_large(path, data)
        parent = path.rpartition("/")[0] or "/"
        above = self._nodes.get(parent)
        if above is None:
            raise RecordGoneError(parent, "the parent of the znode to be created does not exist")
        if above.entry.stat.owner:
            raise StoreError(parent, "an ephemeral znode can't have children")
        if op.sequence:
            path = f"{path}{above.cversion:010d}"
        if path in self._nodes:
            raise RecordExistsError(path)
        if not path.isascii():
            _check_text(path)
        self._change(parent, above, Znode(above.entry, above.cversion + 1), changes)
        entry = Entry(path, data, Stat(0, zxid, zxid, now, now, owner if op.ephemeral else 0), op.record)
        self._change(path, None, Znode(entry), changes)
        return entry

    def _at_version(self, path: str, version: int) -> Znode:
        node = self._nodes.get(path)
        if node is None:
            raise RecordGoneError(path)
        if version not in (ANY_VERSION, node.entry.stat.version):
            raise VersionConflictError(path, f"is at version {node.entry.stat.version}, not {version}")
        return node

    def _change(self, path: str, old: Znode | None, new: Znode | None, changes: list[Change]) -> None:
        changes.append(Change(path, old, new))
        self._set(path, new)

    def _set(self, path: str, node: Znode | None) -> None:
        was = self._nodes.get(path)
        if node is not None:
            self._nodes[path] = node
            if was is not None:
                return
        elif self._nodes.pop(path, None) is None:
            return
        self._enter_or_leave(path, node, was)

    def _enter_or_leave(self, path: str, node: Znode | None, was: Znode | None) -> None:
        """Update the indexes for a znode that was created or deleted."""
        parent, _, name = path.rpartition("/")
        parent = parent or "/"
        if node is not None:
            self._children.setdefault(parent, set()).add(name)
            if owner := node.entry.stat.owner:
                self._owned.setdefault(owner, set()).add(path)
        elif was is not None:
            _discard(self._children, parent, name)
            if owner := was.entry.stat.owner:
                _discard(self._owned, owner, path)


def _discard(index: dict[_K, set[str]], key: _K, value: str) -> None:
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]


def _check_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise StoreError(ascii(path), "a path that is not Unicode text can't be stored") from None


def _too_large(path: str, data: bytes) -> StoreError:
    return StoreError(path, f"{len(data)} bytes are too many for a znode; the limit is {MAX_DATA}")


def join(parent: str, name: str) -> str:
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


def parents(path: str) -> list[str]:
    """Return all paths above *path*, the topmost first, without the root."""
    parts = path.lstrip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]
