"""A tree of znodes in memory, with ZooKeeper's rules for versions, sequence numbers and ephemerals.

Pure bookkeeping: a transaction is applied whole or not at all, and says what it changed. What does *not* belong here:
sessions, locks' holders, watching, persistence (embedded.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from nodelaunch.errors import NotEmptyError, RecordExistsError, RecordGoneError, StoreError, VersionConflictError
from nodelaunch.protocol.store import ANY_VERSION, Check, Create, Delete, Entry, Put, Stat

MAX_DATA = 1 << 20
"""Bytes in one znode; ZooKeeper's own default limit, so that nothing works here that fails there."""

PlainOp = Create | Put | Delete | Check


@dataclass(frozen=True, slots=True)
class Znode:
    """One znode as it is stored. ``cversion`` counts all children ever created below it."""

    entry: Entry
    cversion: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one path: ``new`` is None where it was deleted, ``old`` where it was created."""

    path: str
    old: Znode | None
    new: Znode | None


@dataclass(slots=True)
class ZnodeTree:
    """All znodes by path. The root always exists."""

    zxid: int = 0
    _nodes: dict[str, Znode] = field(default_factory=lambda: {"/": Znode(Entry("/", b"", Stat(0, 0, 0, 0.0, 0.0)))})
    _children: dict[str, set[str]] = field(default_factory=dict)

    def load(self, nodes: Iterable[Znode], zxid: int) -> None:
        """Take over what was stored."""
        self.zxid = zxid
        for node in nodes:
            self._set(node.entry.path, node)

    def find(self, path: str) -> Entry | None:
        node = self._nodes.get(path)
        return node.entry if node else None

    def children(self, path: str) -> list[str]:
        """Names, sorted. Raises: RecordGoneError."""
        if path not in self._nodes:
            raise RecordGoneError(path)
        return sorted(self._children.get(path, ()))

    def below(self, root: str) -> list[Entry]:
        """Every entry below *root*, parents first."""
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
        """Paths of the ephemerals of one session, or of any with *owner* 0 excluded."""
        return [path for path, node in self._nodes.items() if node.entry.stat.owner == owner]

    def ephemerals(self) -> list[str]:
        return [path for path, node in self._nodes.items() if node.entry.stat.owner]

    # -- changing ---------------------------------------------------------------------------------------------------

    def apply(self, ops: Sequence[PlainOp], *, owner: int, now: float) -> tuple[list[Entry | None], list[Change]]:
        """Perform *ops* in order; their results, and the changes. Raises the first one's error, nothing changed."""
        undo: list[Change] = []
        self.zxid += 1
        try:
            results = [self._perform(op, owner, now, undo.append) for op in ops]
        except StoreError:
            for change in reversed(undo):
                self._set(change.path, change.old)
            self.zxid -= 1
            raise
        return results, undo

    def _perform(self, op: PlainOp, owner: int, now: float, note: Callable[[Change], None]) -> Entry | None:
        match op:
            case Create():
                return self._create(op, owner, now, note)
            case Put(path, data, version):
                node = self._at_version(path, version)
                _check_size(path, data)
                stat = replace(
                    node.entry.stat, version=node.entry.stat.version + 1, modified_zxid=self.zxid, modified_at=now
                )
                return self._change(path, replace(node, entry=Entry(path, data, stat)), note)
            case Delete(path, version):
                self._at_version(path, version)
                if self._children.get(path) or path == "/":
                    raise NotEmptyError(path)
                self._change(path, None, note)
            case Check(path, version):
                self._at_version(path, version)
        return None

    def _create(self, op: Create, owner: int, now: float, note: Callable[[Change], None]) -> Entry | None:
        _check_size(op.path, op.data)
        parent, _ = split(op.path if not op.path.endswith("/") else op.path + "x")
        above = self._nodes.get(parent)
        if above is None:
            raise RecordGoneError(parent, "the parent of the znode to be created does not exist")
        if above.entry.stat.owner:
            raise StoreError(parent, "an ephemeral znode can't have children")
        path = f"{op.path}{above.cversion:010d}" if op.sequence else op.path
        if path in self._nodes:
            raise RecordExistsError(path)
        self._change(parent, replace(above, cversion=above.cversion + 1), note)
        stat = Stat(0, self.zxid, self.zxid, now, now, owner if op.ephemeral else 0)
        return self._change(path, Znode(Entry(path, op.data, stat)), note)

    def _at_version(self, path: str, version: int) -> Znode:
        node = self._nodes.get(path)
        if node is None:
            raise RecordGoneError(path)
        if version not in (ANY_VERSION, node.entry.stat.version):
            raise VersionConflictError(path, f"is at version {node.entry.stat.version}, not {version}")
        return node

    def _change(self, path: str, new: Znode | None, note: Callable[[Change], None]) -> Entry | None:
        note(Change(path, self._nodes.get(path), new))
        self._set(path, new)
        return new.entry if new else None

    def _set(self, path: str, node: Znode | None) -> None:
        parent, name = split(path)
        if node is None:
            self._nodes.pop(path, None)
            self._children.get(parent, set()).discard(name)
        else:
            self._nodes[path] = node
            if path != "/":
                self._children.setdefault(parent, set()).add(name)


def _check_size(path: str, data: bytes) -> None:
    if len(data) > MAX_DATA:
        raise StoreError(path, f"{len(data)} bytes are more than a znode may hold ({MAX_DATA})")


def split(path: str) -> tuple[str, str]:
    """Parent and name."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def join(parent: str, name: str) -> str:
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


def parents(path: str) -> list[str]:
    """All paths above *path*, the topmost first, the root left out."""
    parts = path.lstrip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]
