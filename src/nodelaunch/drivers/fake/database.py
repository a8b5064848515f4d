"""The fake cloud's SQLite database: its tables, opening it, and transactions that translate SQLite's errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodelaunch.drivers.fake.controls import CloudBusyError, CloudRefusedError

FORMAT = 1
"""Version of the file's format, kept as its ``user_version``."""
_SCHEMA = (
    """CREATE TABLE instances (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
        next_state TEXT, next_at REAL, fault TEXT, created_at REAL NOT NULL, flavor TEXT, image TEXT, zone TEXT,
        metadata TEXT NOT NULL, resources TEXT NOT NULL, addresses TEXT NOT NULL, details TEXT NOT NULL)""",
    "CREATE INDEX due ON instances (next_at) WHERE next_at IS NOT NULL",
    "CREATE TABLE used (resource TEXT PRIMARY KEY, amount REAL NOT NULL)",
    """CREATE TABLE faults (
        number INTEGER PRIMARY KEY AUTOINCREMENT, call TEXT NOT NULL, kind TEXT NOT NULL, times INTEGER NOT NULL,
        leaves INTEGER NOT NULL, names INTEGER NOT NULL)""",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE log (
        number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, what TEXT NOT NULL, id TEXT, node_id TEXT,
        detail TEXT NOT NULL)""",
    f"PRAGMA user_version = {FORMAT}",
)
_FENCES = "CREATE TABLE IF NOT EXISTS fences (node TEXT PRIMARY KEY, number INTEGER NOT NULL)"
"""Table that older files of this format lack. Programs that do not know the table still read the file."""


class Database:
    """The SQLite database at one path. The first call opens it, and creates it if it does not exist.

    Every call may raise CloudRefusedError of kind ``unavailable`` when the file can't be used, and `CloudBusyError`
    when another process holds it for longer than *patience_s*.
    """

    def __init__(self, path: Path, *, patience_s: float) -> None:
        self._path = path
        self._patience_s = patience_s
        self._opened: sqlite3.Connection | None = None
        self._is_closed = False

    def close(self) -> None:
        """Close the database permanently. Later calls are refused."""
        self._is_closed = True
        if self._opened is not None:
            self._opened.close()

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return all rows of *query*."""
        with self._edge():
            return self._connection().execute(query, parameters).fetchall()

    def run(self, statement: str, *parameters: Any) -> None:
        with self._edge():
            self._connection().execute(statement, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run one transaction. A refusal by the cloud does not roll back: its log entry and other effects are kept."""
        with self._edge():
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException as error:
                if db.in_transaction:
                    db.execute("COMMIT" if isinstance(error, CloudRefusedError) else "ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _edge(self) -> Iterator[None]:
        """Translate SQLite's errors."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise CloudBusyError("unavailable", f"{self._path} is busy") from None
            raise CloudRefusedError("unavailable", f"fake cloud {self._path}: {error}") from None

    def _connection(self) -> sqlite3.Connection:
        if self._is_closed:
            raise CloudRefusedError("unavailable", "the driver of the fake cloud is closed")
        if self._opened is None:
            self._opened = _open(self._path, self._patience_s)
        return self._opened


def _open(path: Path, patience_s: float) -> sqlite3.Connection:
    """Open the database and create its tables if it is new. Raises: sqlite3.Error, OSError, CloudRefusedError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None, timeout=patience_s)
    try:
        if not _is_ours(db, path):
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            if not _is_ours(db, path):  # another process may have created the tables meanwhile
                for statement in _SCHEMA:
                    db.execute(statement)
            db.execute("COMMIT")
        db.execute("PRAGMA synchronous = OFF")
        db.execute(_FENCES)
    except BaseException:
        db.close()
        raise
    return db


def _is_ours(db: sqlite3.Connection, path: Path) -> bool:
    """Return True if the tables exist, False for an empty database.

    Raises: CloudRefusedError for a database of another program.
    """
    query = "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
    version, tables = db.execute(query).fetchone()
    if tables and version != FORMAT:
        raise CloudRefusedError("unavailable", f"{path} is a database, but not a fake cloud of this version")
    return bool(tables)
