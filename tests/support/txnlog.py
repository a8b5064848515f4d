"""Transactions that a ZooKeeper server has committed, from its log: every write of all sessions, in order.

A watch shows only the last of several quick changes, and never its writer; the log misses nothing. A write is in the
file before its client gets the reply. What does *not* belong here: which writes are right (support/discipline.py).
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_FILE_HEADER = 16
_CREATES = {1, 15, 19, 21}
"""Create, and its kinds that return a stat, make a container, or have a time to live."""
_DELETES = {2, 20}
_SET, _MULTI, _CLOSE, _ERROR = 5, 14, -11, -1


@dataclass(frozen=True, slots=True)
class Write:
    """A change of one znode. Changes of the same transaction share a zxid, and come in their order in it."""

    zxid: int
    session: int
    """Whose; that of the session that ended, for an ephemeral that went with it."""
    kind: Literal["create", "set", "delete"]
    path: str
    data: bytes = b""

    @property
    def record(self) -> dict[str, Any]:
        """The JSON object that was written."""
        found: dict[str, Any] = json.loads(self.data)
        return found


class History:
    """Writes in the order they were committed, and what can be asked about them."""

    def __init__(self, writes: Iterable[Write]) -> None:
        self.writes = list(writes)

    def __iter__(self) -> Iterator[Write]:
        return iter(self.writes)

    def of(self, path: str) -> list[Write]:
        """Return the writes to the record at *path*."""
        return [write for write in self.writes if write.path == path and write.data]

    def states(self, path: str) -> list[str]:
        """The states the record at *path* went through."""
        found = [write.record["state"] for write in self.of(path)]
        return [state for state, before in zip(found, [None, *found], strict=False) if state != before]

    def when(self, path: str, **fields: Any) -> int:
        """The place in the order of the first write of a record at *path* with these *fields*."""
        for place, write in enumerate(self.writes):
            if write.path == path and write.data and fields.items() <= write.record.items():
                return place
        raise AssertionError(f"{path} never had {fields}: {[write.record for write in self.of(path)]}")

    def when_gone(self, path: str) -> list[int]:
        """The places of all deletions of *path* or of something below it."""
        return [
            place
            for place, write in enumerate(self.writes)
            if write.kind == "delete" and (write.path + "/").startswith(path + "/")
        ]


class _Reader:
    """ZooKeeper's serialisation of records, as far as the log needs it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        return self._take("!i")

    def long(self) -> int:
        return self._take("!q")

    def _take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def buffer(self) -> bytes:
        length = max(0, self.number())
        self._at += length
        return self._data[self._at - length : self._at]

    def text(self) -> str:
        return self.buffer().decode()

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._data)


def history(data_folder: Path, chroot: str) -> History:
    """All writes below *chroot*, their paths relative to it, that are in the logs of the server at *data_folder*."""
    return History(write for each in _logged(data_folder).values() for write in _below(chroot, each))


def merged(servers: Iterable[Iterable[Path]], chroot: str) -> History:
    """The same of an ensemble: of each server its data folders, of which all but one hold what it lost by a restore.

    A server's log may have gaps, where it was given a snapshot to catch up, and a tail that was never committed, where
    its epoch ended meanwhile. What two have logged is committed, and so is all before it in its epoch; and what a
    snapshot is named after, which each leader takes when it begins.
    """
    found: dict[int, bytes] = {}
    holders: Counter[int] = Counter()
    committed: list[int] = []
    for folders in servers:
        own: dict[int, bytes] = {}
        for folder in folders:
            own.update(_logged(folder))
            committed += [_number(path) for path in (folder / "version-2").glob("snapshot.*")]
        holders.update(own.keys())
        found.update(own)
    committed += [zxid for zxid, count in holders.items() if count > 1]
    ends: dict[int, int] = {}
    for zxid in committed:
        ends[zxid >> 32] = max(zxid, ends.get(zxid >> 32, 0))
    return History(
        write
        for zxid, transaction in sorted(found.items())
        if zxid <= ends.get(zxid >> 32, 0)
        for write in _below(chroot, transaction)
    )


def _logged(data_folder: Path) -> dict[int, bytes]:
    """The transactions in the logs there, by zxid and in their order."""
    logs = sorted((data_folder / "version-2").glob("log.*"), key=_number)
    return {struct.unpack_from("!q", each, 12)[0]: each for log in logs for each in transactions(log)}


def _number(path: Path) -> int:
    return int(path.suffix[1:], 16)


def _below(chroot: str, transaction: bytes) -> Iterator[Write]:
    for each in _writes(transaction):
        if each.path.startswith(chroot + "/"):
            yield Write(each.zxid, each.session, each.kind, each.path.removeprefix(chroot), each.data)


def transactions(log: Path) -> Iterator[bytes]:
    """The transactions in one file, which is zeros from the last one on."""
    with log.open("rb") as file:
        file.seek(_FILE_HEADER)
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack_from("!i", head, 8)
            body = file.read(length + 1)
            if length <= 0 or len(body) <= length or body[-1:] != b"B":
                return
            yield body[:-1]


def _writes(transaction: bytes) -> Iterator[Write]:
    reader = _Reader(transaction)
    session, _cxid, zxid, _time = reader.long(), reader.number(), reader.long(), reader.long()
    yield from _parts(reader.number(), reader, zxid, session)


def _parts(kind: int, reader: _Reader, zxid: int, session: int) -> Iterator[Write]:
    if kind in _CREATES:
        yield Write(zxid, session, "create", reader.text(), reader.buffer())
    elif kind == _SET:
        yield Write(zxid, session, "set", reader.text(), reader.buffer())
    elif kind in _DELETES:
        yield Write(zxid, session, "delete", reader.text())
    elif kind == _CLOSE and not reader.is_at_end:
        for _ in range(max(0, reader.number())):
            yield Write(zxid, session, "delete", reader.text())
    elif kind == _MULTI:
        parts = [(reader.number(), reader.buffer()) for _ in range(max(0, reader.number()))]
        if not any(part == _ERROR for part, _ in parts):  # else nothing of it was done
            for part, body in parts:
                yield from _parts(part, _Reader(body), zxid, session)
