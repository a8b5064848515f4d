"""The embedded store's file: which formats of it are opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from nodelaunch.errors import StoreUnavailableError
from nodelaunch.store.embedded.sqlite import FORMAT, SqliteFile


def user_version(path: Path) -> int:
    with sqlite3.connect(path) as db:
        (found,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    return int(found)


def set_user_version(path: Path, version: int) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()


def test_new_file_says_its_format(tmp_path: Path) -> None:
    SqliteFile(tmp_path / "store.sqlite").close()
    assert user_version(tmp_path / "store.sqlite") == FORMAT


def test_file_from_before_there_were_formats_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    SqliteFile(path).close()
    set_user_version(path, 0)
    SqliteFile(path).close()
    assert user_version(path) == FORMAT


def test_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    SqliteFile(path).close()
    set_user_version(path, FORMAT + 1)
    before = path.read_bytes()
    with pytest.raises(StoreUnavailableError, match="was written by a later version of nodelaunch: its format is 2"):
        SqliteFile(path)
    assert path.read_bytes() == before
