"""Counts the writes that a server rejected, from its transaction log: launchers lost these to each other.

A rejected write, of a transaction or alone, is logged as one that failed. Source: ZooKeeper 3.8,
PrepRequestProcessor.pRequest.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path

from support.txnlog import transactions

_HEAD = struct.Struct("!qiqqi")
_PARTS = struct.Struct("!ii")
_MULTI, _FAILED = 14, -1


def rejected(data_folder: Path, sessions: Collection[int], after_zxid: int) -> int:
    """Return the number of failed writes of *sessions* after *after_zxid*, by the logs below *data_folder*."""
    logs = sorted((data_folder / "version-2").glob("log.*"), key=lambda path: int(path.suffix[1:], 16))
    return sum(_is_counted(each, sessions, after_zxid) for log in logs for each in transactions(log))


def _is_counted(transaction: bytes, sessions: Collection[int], after_zxid: int) -> bool:
    session, _, zxid, _, kind = _HEAD.unpack_from(transaction)
    if zxid <= after_zxid or session not in sessions:
        return False
    if kind == _MULTI:
        _, kind = _PARTS.unpack_from(transaction, _HEAD.size)
    return bool(kind == _FAILED)
