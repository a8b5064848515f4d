"""The store in one SQLite file or in memory, for one process; other processes of the machine reach it through a
socket."""

from nodelaunch.store.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore"]
