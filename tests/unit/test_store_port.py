"""Entries of the store's port: equality and hash."""

from __future__ import annotations

from nodelaunch.protocol.store import Entry, Stat
from support.builders import a_node


def entry(data: bytes = b"x", record: object = None) -> Entry:
    return Entry("/p", data, Stat(1, 2, 3, 4.0, 5.0), record)


def test_entries_are_equal_whatever_they_were_made_from() -> None:
    assert entry(record=a_node()) == entry()
    assert hash(entry(record=a_node())) == hash(entry())
    assert entry(b"y") != entry()
    assert entry() != "/p"
    assert entry().__eq__("/p") is NotImplemented


def test_entry_shows_no_record() -> None:
    assert repr(entry(record=a_node())) == repr(entry())
