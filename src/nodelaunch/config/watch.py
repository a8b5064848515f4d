"""Detects changed contents of files, whether they are replaced in place, by rename or by symbolic link.

It checks the files once a second: a stat of each, and the contents if the stat differs. Notifications of the system
would be faster, but miss changes on network file systems and behind links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

POLL_S = 1.0

_Stat = tuple[int, int, int]


class FileWatch:
    """Watches the paths that *files* returns at each check. Changes are relative to their contents now."""

    def __init__(self, files: Callable[[], Iterable[Path]]) -> None:
        self._files = files
        self._stats: dict[Path, _Stat | None] = {}
        self._hashes: dict[Path, bytes | None] = {}
        self.look()

    def look(self) -> frozenset[Path]:
        """Return the files whose contents differ from the last check. A missing file has no contents; a file that is
        watched for the first time has not changed."""
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
        """Wait until files have changed, and then have not changed again for `POLL_S`."""
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
