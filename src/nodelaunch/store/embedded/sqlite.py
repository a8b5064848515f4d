"""The SQLite file of the embedded store: znodes as rows, written in groups of changes, owned by one process.

All methods block. They may be called from any thread, but only one at a time.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nodelaunch.errors import StoreUnavailableError
from nodelaunch.protocol.store import Entry, Stat
from nodelaunch.store.embedded.znodes import Change, Znode

MODE = 0o600
"""Mode of the file and of the files beside it: records contain data of the nodes' users."""
FORMAT = 1
"""Format of the file, in SQLite's ``user_version``; files without a format number have 0."""
PROBE_BYTES = 1 << 16
"""Bytes that a probe writes before the file counts as writable again: enough for some transactions."""
CHUNK = 64
"""Rows in one statement. Each statement releases and takes the interpreter lock once, regardless of its rows."""
_COLUMNS = (
    "path", "data", "version", "created_zxid", "modified_zxid", "created_at", "modified_at", "owner", "cversion",
)  # fmt: skip
_ROW = f"({', '.join('?' * len(_COLUMNS))})"
_Row = tuple[object, ...]


class SqliteFile:
    """The store's file at *path*, locked against every other process.

    Raises: StoreUnavailableError if the file can't be opened, is in use, or has other content; OSError.
    """

    def __init__(self, path: Path) -> None:
        # Two symbolic links to one file have to lead to one lock
        path = path.resolve()
        self.path: Path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._guard = _own(path)
        try:
            with self._edge():
                self._db = self._open()
        except BaseException:
            self._guard.close()
            raise

    def _open(self) -> sqlite3.Connection:
        _make_private(self.path)
        # The files beside it get the mode of the file
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            self._check_format(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # acknowledged means safe from a power cut, too
            db.execute(
                "CREATE TABLE IF NOT EXISTS znodes (path TEXT PRIMARY KEY, data BLOB NOT NULL, version INTEGER,"
                " created_zxid INTEGER, modified_zxid INTEGER, created_at REAL, modified_at REAL, owner INTEGER,"
                " cversion INTEGER) WITHOUT ROWID"
            )
            db.execute("CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER)")
            self._check_columns(db)
            db.execute(f"PRAGMA user_version = {FORMAT}")
        except BaseException:
            db.close()
            raise
        return db

    def _check_format(self, db: sqlite3.Connection) -> None:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise StoreUnavailableError(
                str(self.path),
                f"was written by a later version of nodelaunch: its format is {found}, this version knows {FORMAT};"
                " upgrade, or name another file in embedded-store",
            )

    def _check_columns(self, db: sqlite3.Connection) -> None:
        found = tuple(row[1] for row in db.execute("PRAGMA table_info(znodes)"))
        if found != _COLUMNS:
            raise StoreUnavailableError(
                str(self.path),
                f"is a database of another program, or of another version: its table znodes has the columns"
                f" {', '.join(found)}; name another file in embedded-store",
            )

    @contextmanager
    def _edge(self) -> Iterator[None]:
        """Translate SQLite's errors while the file is opened and read."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreUnavailableError(
                str(self.path),
                f"can't be used as a store: {error}; if it is damaged, restore a copy, or move it away for a new file",
            ) from None

    def load(self) -> tuple[list[Znode], int]:
        """Return all stored znodes, and the last zxid. Raises: StoreUnavailableError."""
        with self._edge():
            rows = self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM znodes").fetchall()  # noqa: S608  only our own column names
            row = self._db.execute("SELECT value FROM counters WHERE name = 'zxid'").fetchone()
        try:
            nodes = [Znode(Entry(path, bytes(data), Stat(*stat)), cversion) for path, data, *stat, cversion in rows]
        except TypeError as error:
            raise StoreUnavailableError(str(self.path), f"holds a row that is no znode: {error}") from None
        return nodes, row[0] if row else 0

    def write(self, changes: Sequence[Change], zxid: int) -> None:
        """Store *changes* and the last *zxid*, all or none, safe from a power cut. Raises: sqlite3.Error."""
        last = {change.path: change.new for change in changes}
        gone = [path for path, node in last.items() if node is None]
        rows = [_row(node) for node in last.values() if node is not None]
        execute = self._db.execute
        execute("BEGIN IMMEDIATE")
        try:
            for at in range(0, len(gone), CHUNK):
                chunk = gone[at : at + CHUNK]
                execute(f"DELETE FROM znodes WHERE path IN ({', '.join('?' * len(chunk))})", chunk)  # noqa: S608  only question marks
            for at in range(0, len(rows), CHUNK):
                group = rows[at : at + CHUNK]
                values = ", ".join([_ROW] * len(group))
                execute(f"INSERT OR REPLACE INTO znodes VALUES {values}", [value for row in group for value in row])  # noqa: S608  the same
            execute("INSERT OR REPLACE INTO counters VALUES ('zxid', ?)", (zxid,))
            execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def probe(self) -> None:
        """Check that the file can be written, by writing `PROBE_BYTES`. Raises: sqlite3.Error."""
        try:
            self._db.execute("INSERT OR REPLACE INTO counters VALUES ('probe', zeroblob(?))", (PROBE_BYTES,))
            self._db.execute("DELETE FROM counters WHERE name = 'probe'")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # some errors end the transaction themselves
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        self._db.close()
        self._guard.close()


def _row(node: Znode) -> _Row:
    entry = node.entry
    stat = entry.stat
    return (
        entry.path, entry.data, stat.version, stat.created_zxid, stat.modified_zxid, stat.created_at,
        stat.modified_at, stat.owner, node.cversion,
    )  # fmt: skip


def _make_private(path: Path) -> None:
    """Make the file, created if needed, and older versions' files beside it readable for their owner only."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, MODE))
    for each in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        try:
            if each.stat().st_mode & 0o077:
                each.chmod(MODE)
        except (FileNotFoundError, PermissionError):
            continue  # missing, or owned by another user


def _own(path: Path) -> IO[str]:
    """Return an open file that keeps every other process from opening the store at *path*."""
    name = path.with_name(path.name + ".lock")
    guard = os.fdopen(os.open(name, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, MODE), "a+", encoding="ascii")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        guard.seek(0)
        owner = guard.read().strip() or "unknown"
        guard.close()
        raise StoreUnavailableError(str(path), f"is in use by process {owner}") from None
    if os.fstat(guard.fileno()).st_mode & 0o077:
        os.fchmod(guard.fileno(), MODE)
    guard.truncate(0)
    guard.write(str(os.getpid()))
    guard.flush()
    return guard
