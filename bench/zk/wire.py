"""Encodes requests to a ZooKeeper server and decodes its replies, as bytes; pure.

Source: ZooKeeper 3.8, zookeeper.jute.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

CREATE, DELETE, EXISTS, GET, SET, PING, CHILDREN, MULTI, CREATE2, CLOSE, ADD_WATCH = (
    1, 2, 3, 4, 5, 11, 12, 14, 15, -11, 106,
)  # fmt: skip
CREATED, DELETED, CHANGED = 1, 2, 3
"""Kinds of events."""
NO_NODE, BAD_VERSION, NODE_EXISTS, NOT_EMPTY, CONNECTION_LOSS, ROLLED_BACK = -101, -103, -110, -111, -4, -2
"""Error codes; ROLLED_BACK is that of the other operations of a failed transaction."""
EPHEMERAL, SEQUENCE = 1, 2
"""Flags of a create."""

INT: Final = struct.Struct("!i")
HEADER: Final = struct.Struct("!iqi")
REQUEST: Final = struct.Struct("!iii")
STAT: Final = struct.Struct("!qqqqiiiqiiq")
_MULTI: Final = struct.Struct("!i?i")
_MULTI_END: Final = _MULTI.pack(-1, True, -1)
_ANYONE: Final = struct.pack("!iii5si6s", 1, 31, 5, b"world", 6, b"anyone")
_GREETING: Final = struct.Struct("!iqiqi16s?")
_WELCOME: Final = struct.Struct("!iiq")

Op = tuple[int, bytes]
"""Opcode and body."""


class Stat(NamedTuple):
    """The fields of a znode's stat that are used here."""

    version: int
    children_version: int
    children: int


def _blob(raw: bytes) -> bytes:
    return INT.pack(len(raw)) + raw


def greeting(timeout_ms: int) -> bytes:
    """The frame that asks for a new session."""
    return _blob(_GREETING.pack(0, 0, timeout_ms, 0, 16, bytes(16), False))


def read_welcome(data: bytes, at: int) -> tuple[float, int]:
    """Session timeout in seconds, and session id."""
    _, timeout_ms, session = _WELCOME.unpack_from(data, at)
    return timeout_ms / 1000, session


def create(path: str, data: bytes = b"", flags: int = 0) -> Op:
    return CREATE2, b"".join((_blob(path.encode()), _blob(data), _ANYONE, INT.pack(flags)))


def put(path: str, data: bytes, version: int = -1) -> Op:
    return SET, b"".join((_blob(path.encode()), _blob(data), INT.pack(version)))


def delete(path: str, version: int = -1) -> Op:
    return DELETE, _blob(path.encode()) + INT.pack(version)


def get(path: str) -> Op:
    return GET, _blob(path.encode()) + b"\0"


def exists(path: str) -> Op:
    return EXISTS, _blob(path.encode()) + b"\0"


def children(path: str) -> Op:
    return CHILDREN, _blob(path.encode()) + b"\0"


def add_watch(path: str) -> Op:
    """A persistent recursive watch."""
    return ADD_WATCH, _blob(path.encode()) + INT.pack(1)


def multi(ops: Sequence[Op]) -> Op:
    return MULTI, b"".join(part for code, body in ops for part in (_MULTI.pack(code, False, -1), body)) + _MULTI_END


def read_text(data: bytes, at: int) -> tuple[str, int]:
    """The string at *at*, and where what follows it begins."""
    (size,) = INT.unpack_from(data, at)
    end = at + 4 + max(size, 0)
    return data[at + 4 : end].decode(), end


def read_stat(data: bytes, at: int) -> Stat:
    fields = STAT.unpack_from(data, at)
    return Stat(fields[4], fields[5], fields[9])


def read_data(data: bytes, at: int) -> tuple[bytes, int]:
    """The reply to a get: the znode's body and version."""
    (size,) = INT.unpack_from(data, at)
    end = at + 4 + max(size, 0)
    return data[at + 4 : end], STAT.unpack_from(data, end)[4]


def read_children(data: bytes, at: int) -> list[str]:
    (count,) = INT.unpack_from(data, at)
    names, at = [], at + 4
    for _ in range(count):
        name, at = read_text(data, at)
        names.append(name)
    return names


def read_multi(data: bytes, at: int) -> tuple[list[str], list[int]]:
    """The reply to a transaction: the paths it created, in order, and the error of each operation where it failed."""
    paths: list[str] = []
    errors: list[int] = []
    while True:
        code, is_done, _ = _MULTI.unpack_from(data, at)
        at += _MULTI.size
        if is_done:
            return paths, errors
        if code == -1:
            errors.append(INT.unpack_from(data, at)[0])
            at += INT.size
        elif code in (CREATE, CREATE2):
            path, at = read_text(data, at)
            at += STAT.size if code == CREATE2 else 0
            paths.append(path)
        elif code == SET:
            at += STAT.size


def next_number(stat: Stat) -> int:
    """The number the server gives to the next sequential child of the znode with *stat*.

    A stat's cversion counts creates twice and takes the children there are away.
    Source: ZooKeeper 3.8, DataNode.copyStat.
    """
    return (stat.children_version + stat.children) // 2
