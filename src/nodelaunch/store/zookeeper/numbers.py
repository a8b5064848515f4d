"""Predicts the sequence numbers that a server gives, so that a znode can be created and locked in one transaction.

A server numbers the children of a directory by the number of children ever created in it, which the directory's own
stat shows. While this process alone creates there, the next number follows from the requests that it has sent. A
creation by a peer, an error, or a new connection makes the number unknown. A listing of the directory, or the reply to
a sequential create, makes it known again. Callers use predictions only for directories in which no peer creates.
Source: ZooKeeper 3.8, PrepRequestProcessor, the names of sequential znodes.
"""

from __future__ import annotations

from typing import Final

DIGITS: Final = 10
"""Digits of a sequence number, at the end of a name."""


class Numbers:
    """The next numbers, by path without the number.

    Invariant: a known number is the one that the server gives to the next create on this connection, if no peer creates
    in the directory, and this process creates at this path only.
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._under_way: dict[str, int] = {}
        """Number of creates without a reply. There is no entry for 0."""
        self._foreign: dict[str, int] = {}
        """The highest number that a peer was seen to create while the next one was not known."""

    def take(self, path: str) -> str | None:
        """Return the path that the next create at *path* makes; None if it is not known. It counts as sent from
        now on."""
        number = self._next.get(path)
        if number is None:
            return None
        self._next[path] = number + 1
        return f"{path}{number:0{DIGITS}d}"

    def begins(self, path: str, *, is_foreseen: bool = False) -> None:
        """Note that a create at *path* is sent: one that the server numbers, or, *is_foreseen*, one whose number was
        taken."""
        self._under_way[path] = self._under_way.get(path, 0) + 1
        if path in self._next and not is_foreseen:
            self._next[path] += 1

    def ends(self, path: str, made: str | None, *, is_foreseen: bool = False) -> None:
        """Note the reply to the first create without one: *made* is the created path, None if it failed."""
        left = self._under_way.pop(path, 1) - 1
        if left > 0:
            self._under_way[path] = left
        if made is None:
            self.forget(path)
            return
        number = int(made[-DIGITS:])
        if path in self._next:
            if self._next[path] != number + 1 + left:
                self.forget(path)  # a peer created a znode, and the event was taken for one of ours
        elif not is_foreseen and number > self._foreign.get(path, -1):
            self._next[path] = number + 1 + left

    def listed(self, path: str, created: int) -> None:
        """Note that so many znodes were ever created at *path*, as of all requests that are answered."""
        if path not in self._under_way:
            self._next[path] = created

    def created(self, path: str) -> None:
        """Note that *path* was created, perhaps by a peer: by this process, if its number was taken before."""
        start, number = path[:-DIGITS], path[-DIGITS:]
        known = self._next.get(start)
        if number.isdigit() and (known is None or int(number) >= known):
            self.forget(start)
            if start in self._under_way:
                self._foreign[start] = max(int(number), self._foreign.get(start, -1))

    def forget(self, path: str) -> None:
        """Forget the next number at *path*."""
        self._next.pop(path, None)

    def reset(self) -> None:
        """Forget all numbers: the connection has ended."""
        self._next.clear()
        self._under_way.clear()
        self._foreign.clear()
