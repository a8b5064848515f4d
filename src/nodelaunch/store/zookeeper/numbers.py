"""Foresees the sequence numbers that a server gives, so that a znode can be made and locked in one transaction.

A server numbers the children of a directory by how many were ever created in it, which the directory's own stat tells.
While this process alone creates there, the next number follows from what it has sent. Whatever casts doubt on that ends
the foresight: a creation by somebody else, an error, a new connection. A listing of the directory, or the reply to a
sequential create, begins it again.
What does *not* belong here: who else may create there; callers know.
Source: ZooKeeper 3.8, PrepRequestProcessor, the names of sequential znodes.
"""

from __future__ import annotations

from typing import Final

DIGITS: Final = 10
"""Of a sequence number, at the end of a name."""


class Numbers:
    """The next numbers, by path without the number.

    Invariant: a known number is the one that the server gives to whatever is sent next on this connection, if nobody
    else creates in the directory, and we create at this path only.
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._under_way: dict[str, int] = {}
        """How many creates have no reply yet. Without any there is no entry."""
        self._foreign: dict[str, int] = {}
        """The highest number that somebody else was seen to make while the next one was not known."""

    def take(self, path: str) -> str | None:
        """The path that the next create at *path* makes, None if that is not known. It counts as sent from now on."""
        number = self._next.get(path)
        if number is None:
            return None
        self._next[path] = number + 1
        return f"{path}{number:0{DIGITS}d}"

    def begins(self, path: str, *, is_foreseen: bool = False) -> None:
        """A create at *path* is sent: one that the server numbers, or, *is_foreseen*, one whose number was taken."""
        self._under_way[path] = self._under_way.get(path, 0) + 1
        if path in self._next and not is_foreseen:
            self._next[path] += 1

    def ends(self, path: str, made: str | None, *, is_foreseen: bool = False) -> None:
        """The first of those without a reply is answered: *made* is what it made, None if it failed."""
        left = self._under_way.pop(path, 1) - 1
        if left > 0:
            self._under_way[path] = left
        if made is None:
            self.forget(path)
            return
        number = int(made[-DIGITS:])
        if path in self._next:
            if self._next[path] != number + 1 + left:
                self.forget(path)  # somebody else created, and the event was taken for one of ours
        elif not is_foreseen and number > self._foreign.get(path, -1):
            self._next[path] = number + 1 + left

    def listed(self, path: str, created: int) -> None:
        """At *path*, so many znodes were ever created, as of all that was sent before now and is answered."""
        if path not in self._under_way:
            self._next[path] = created

    def created(self, path: str) -> None:
        """*path* was created, perhaps by somebody else: by us, if its number was taken before."""
        start, number = path[:-DIGITS], path[-DIGITS:]
        known = self._next.get(start)
        if number.isdigit() and (known is None or int(number) >= known):
            self.forget(start)
            if start in self._under_way:
                self._foreign[start] = max(int(number), self._foreign.get(start, -1))

    def forget(self, path: str) -> None:
        """What comes next at *path*, without a number, is not known any more."""
        self._next.pop(path, None)

    def reset(self) -> None:
        """Nothing is known any more: the connection is gone."""
        self._next.clear()
        self._under_way.clear()
        self._foreign.clear()
