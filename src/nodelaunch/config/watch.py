"""Tells when files have other contents than before, however they were replaced: in place, by rename, by symbolic link.

Looks at them once a second: a stat each, and the contents only where that differs. Notifications of the system would be
quicker, but miss what happens on network file systems and behind links. What does *not* belong here: what is in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

POLL_S = 1.0

_Stat = tuple[int, int, int]


class FileWatch:
    """Watches the *files* there are to watch at each look. What they hold now is what changes are counted from."""

    def __init__(self, files: Callable[[], Iterable[Path]]) -> None:
        self._files = files
        self._stats: dict[Path, _Stat | None] = {}
        self._hashes: dict[Path, bytes | None] = {}
        self.look()

    def look(self) -> frozenset[Path]:
        """Files whose contents differ from the last look. A file that is not there has none; one that is watched for
        the first time has not changed."""
        changed = set()
        for path in self._files():
            stat = _stat(path)
            if path in self._stats and stat == self._stats[path]:
                continue
            contents = _hash(path)
            if path in self._hashes and contents != self._hashes[path]:
                changed.add(path)
            self._stats[path], self._hashes[path] = stat, contents
        return frozenset(changed)

    async def changed(self) -> frozenset[Path]:
        """Wait until files have changed, and have come to rest: for `POLL_S` nothing more has happened to them."""
        touched: frozenset[Path] = frozenset()
        while True:
            await asyncio.sleep(POLL_S)
            now = await asyncio.to_thread(self.look)
            if touched and not now:
                return touched
            touched |= now


def _stat(path: Path) -> _Stat | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _hash(path: Path) -> bytes | None:
    try:
        return sha256(path.read_bytes()).digest()
    except OSError:
        return None
