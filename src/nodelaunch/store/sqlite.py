"""The SQLite file under the embedded store: znodes as rows, written a transaction at a time, owned by one process.

What does *not* belong here: what a transaction does (znodes.py), who waits for it (embedded.py). All of it blocks, and
runs in one worker thread.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nodelaunch.errors import StoreUnavailableError
from nodelaunch.protocol.store import Entry, Stat
from nodelaunch.store.znodes import Change, Znode


class SqliteFile:
    """The SQLite file. Its methods block; they run in one worker thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._guard = _own(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # acknowledged means safe from a power cut, too
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS znodes (path TEXT PRIMARY KEY, data BLOB NOT NULL, version INTEGER,"
                " created_zxid INTEGER, modified_zxid INTEGER, created_at REAL, modified_at REAL, owner INTEGER,"
                " cversion INTEGER) WITHOUT ROWID"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER)")
        except sqlite3.Error as error:
            self._guard.close()
            raise StoreUnavailableError(str(path), f"not usable as a store: {error}") from None

    def load(self) -> tuple[list[Znode], int]:
        """Everything stored, and the last zxid."""
        rows = self._db.execute(
            "SELECT path, data, version, created_zxid, modified_zxid, created_at, modified_at, owner, cversion"
            " FROM znodes"
        )
        nodes = [Znode(Entry(path, bytes(data), Stat(*stat)), cversion) for path, data, *stat, cversion in rows]
        row = self._db.execute("SELECT value FROM counters WHERE name = 'zxid'").fetchone()
        return nodes, row[0] if row else 0

    def write(self, changes: Sequence[Change], zxid: int) -> None:
        """Store *changes*, all or none."""
        last = {change.path: change.new for change in changes}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("DELETE FROM znodes WHERE path = ?", [(p,) for p, new in last.items() if new is None])
            self._db.executemany(
                "INSERT OR REPLACE INTO znodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_row(node) for node in last.values() if node is not None],
            )
            self._db.execute("INSERT OR REPLACE INTO counters VALUES ('zxid', ?)", (zxid,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._db.close()
        self._guard.close()


def _row(node: Znode) -> tuple[object, ...]:
    stat = node.entry.stat
    return (
        node.entry.path, node.entry.data, stat.version, stat.created_zxid, stat.modified_zxid, stat.created_at,
        stat.modified_at, stat.owner, node.cversion,
    )  # fmt: skip


def _own(path: Path) -> IO[str]:
    """An open file that keeps every other process from opening the store at *path*."""
    guard = path.with_name(path.name + ".lock").open("a+", encoding="ascii")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        guard.seek(0)
        owner = guard.read().strip() or "unknown"
        guard.close()
        raise StoreUnavailableError(str(path), f"is in use by process {owner}") from None
    guard.truncate(0)
    guard.write(str(os.getpid()))
    guard.flush()
    return guard
