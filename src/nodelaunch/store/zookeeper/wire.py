"""ZooKeeper's bytes: requests encoded, replies decoded, error codes named.

Decoders take the received bytes and an offset; they copy only what they return. The opcodes and error classes are
aiozk's; the rest is here because aiozk 0.32 encodes field by field and lacks AddWatch. Source: ZooKeeper 3.8,
zookeeper.jute, and its server's behaviour.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiozk import exc, protocol

from nodelaunch.errors import (
    AccessDeniedError,
    NotEmptyError,
    RecordExistsError,
    RecordGoneError,
    SessionLostError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from nodelaunch.protocol.store import CheckVersion, Create, Delete, Entry, Put, Stat

OP_CREATE2: Final[int] = protocol.Create2Request.opcode
OP_DELETE: Final[int] = protocol.DeleteRequest.opcode
OP_EXISTS: Final[int] = protocol.ExistsRequest.opcode
OP_GET: Final[int] = protocol.GetDataRequest.opcode
OP_SET: Final[int] = protocol.SetDataRequest.opcode
OP_CHILDREN2: Final[int] = protocol.GetChildren2Request.opcode
OP_CHECK: Final[int] = protocol.CheckVersionRequest.opcode
OP_MULTI: Final[int] = protocol.TransactionRequest.opcode
OP_SYNC: Final[int] = protocol.SyncRequest.opcode
OP_PING: Final[int] = protocol.PingRequest.opcode
OP_CLOSE: Final[int] = protocol.CloseRequest.opcode
OP_AUTH: Final = 100
OP_ADD_WATCH: Final = 106
PERSISTENT_RECURSIVE: Final = 1

EVENT_CREATED: Final[int] = protocol.WatchEvent.CREATED
EVENT_DELETED: Final[int] = protocol.WatchEvent.DELETED
EVENT_CHANGED: Final[int] = protocol.WatchEvent.DATA_CHANGED

NO_NODE: Final[int] = exc.NoNode.error_code
NODE_EXISTS: Final[int] = exc.NodeExists.error_code
BROKEN: Final[int] = exc.ConnectionLoss.error_code
"""Error code of a request whose connection ended before a reply came. No server sends it."""

MAX_PACKET: Final = 0xFFFFF
"""Most bytes of a request without its length field; a server disconnects if there are more. Source: jute.maxbuffer, its
default."""
HEADER_SIZE: Final = 8
"""Bytes of a request before its body."""

_INT = struct.Struct("!i")
_STAT = struct.Struct("!qqqqiiiqiiq")
_CHANGES = struct.Struct("!36xi")
"""A stat's count of changes to the children."""
_CHILD_COUNT = struct.Struct("!56xi")
_MULTI_HEADER = struct.Struct("!i?i")
_MULTI_END = _MULTI_HEADER.pack(-1, True, -1)
_CREATE_ITEM, _SET_ITEM, _DELETE_ITEM, _CHECK_ITEM = (
    _MULTI_HEADER.pack(code, False, -1) for code in (OP_CREATE2, OP_SET, OP_DELETE, OP_CHECK)
)  # fmt: skip
PERMISSIONS: Final = {"r": 1, "w": 2, "c": 4, "d": 8, "a": 16}
_FLAGS: Final = [_INT.pack(flags) for flags in range(4)]
LENGTHS: Final = 4096
"""Lengths below this, nearly all, are encoded beforehand: a transaction has dozens."""
_LENGTHS: Final = [_INT.pack(length) for length in range(LENGTHS)]
_CONNECT = struct.Struct("!iqiqi16s?")
_GREETING = struct.Struct("!iiqi")

PlainOp = Create | Put | Delete | CheckVersion


@dataclass(frozen=True, slots=True)
class Acl:
    """Permissions of an identity on a znode; *permissions* are letters of `PERMISSIONS`."""

    scheme: str
    id: str
    permissions: str


# -- encoding -------------------------------------------------------------------------------------------------------


def encode_acls(acls: Sequence[Acl]) -> bytes:
    """Return the encoded access control list for created znodes."""
    parts = [_INT.pack(len(acls))]
    for acl in acls:
        parts.append(_INT.pack(sum(PERMISSIONS[letter] for letter in set(acl.permissions))))
        parts += (encode_text(acl.scheme.encode()), encode_text(acl.id.encode()))
    return b"".join(parts)


def encode_path(prefix: bytes, path: str, *, watch: bool = False) -> bytes:
    """Return the body of exists, getData and getChildren2 for *path* below the chroot *prefix*."""
    raw = prefix if path == "/" and prefix else prefix + path.encode()
    return _INT.pack(len(raw)) + raw + (b"\x01" if watch else b"\x00")


def encode_text(value: bytes) -> bytes:
    """Return one encoded field; also the body of sync, whose only field is a path."""
    return _INT.pack(len(value)) + value


OPEN_TO_ALL: Final = encode_acls([Acl("world", "anyone", "cdrwa")])
"""The list that Zuul and Nodepool write."""


def encode_auth(scheme: str, secret: bytes) -> bytes:
    """Return the body of an authentication."""
    return _INT.pack(0) + encode_text(scheme.encode()) + encode_text(secret)


def encode_add_watch(prefix: bytes, path: str) -> bytes:
    """Return the body of addWatch: persistent and recursive."""
    raw = prefix if path == "/" and prefix else prefix + path.encode()
    return _INT.pack(len(raw)) + raw + _INT.pack(PERSISTENT_RECURSIVE)


def encode_write(prefix: bytes, ops: Sequence[PlainOp], acls: bytes = OPEN_TO_ALL) -> tuple[int, bytes]:
    """Return opcode and body of *ops*: of one create2, setData, delete or check, or of a transaction of several.

    *acls*: encoded, for created znodes.
    """
    parts: list[bytes] = []
    code = OP_MULTI
    for op in ops:
        raw = prefix + op.path.encode()
        length = len(raw)
        size = _LENGTHS[length] if length < LENGTHS else _INT.pack(length)
        if type(op) is Create:
            length = len(data := op.data)
            data_size = _LENGTHS[length] if length < LENGTHS else _INT.pack(length)
            code = OP_CREATE2
            parts += (_CREATE_ITEM, size, raw, data_size, data, acls, _FLAGS[op.ephemeral | op.sequence << 1])
        elif type(op) is Put:
            length = len(data := op.data)
            data_size = _LENGTHS[length] if length < LENGTHS else _INT.pack(length)
            code = OP_SET
            parts += (_SET_ITEM, size, raw, data_size, data, _INT.pack(op.version))
        elif type(op) is Delete:
            code = OP_DELETE
            parts += (_DELETE_ITEM, size, raw, _INT.pack(op.version))
        else:
            code = OP_CHECK
            parts += (_CHECK_ITEM, size, raw, _INT.pack(op.version))
    if len(ops) == 1:
        return code, b"".join(parts[1:])
    parts.append(_MULTI_END)
    return OP_MULTI, b"".join(parts)


def encode_connect(*, session_id: int, password: bytes, last_zxid: int, timeout_s: float) -> bytes:
    """Return the first frame of a connection, with its length field."""
    return _INT.pack(_CONNECT.size) + _CONNECT.pack(
        0, last_zxid, int(timeout_s * 1000), session_id, 16, password, False
    )  # fmt: skip


# -- decoding -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Greeting:
    """The server's answer to a connect request; session 0: the requested session has ended."""

    session_id: int
    password: bytes
    timeout_s: float


def read_greeting(data: bytes, at: int) -> Greeting:
    _, timeout_ms, session_id, size = _GREETING.unpack_from(data, at)
    at += _GREETING.size
    return Greeting(session_id, data[at : at + size], timeout_ms / 1000)


def read_stat(data: bytes, at: int) -> Stat:
    created, modified, created_ms, modified_ms, version, _, _, owner, _, _, _ = _STAT.unpack_from(data, at)
    return Stat(version, created, modified, created_ms / 1000, modified_ms / 1000, owner)


def read_entry(path: str, data: bytes, at: int) -> Entry:
    """Return the entry in a reply to getData."""
    (size,) = _INT.unpack_from(data, at)
    at += 4
    end = at + size if size > 0 else at
    return Entry(path, data[at:end], read_stat(data, end))


def read_child_count(data: bytes, at: int) -> int:
    """Return a znode's number of children, from the reply to its getData."""
    (size,) = _INT.unpack_from(data, at)
    count: int = _CHILD_COUNT.unpack_from(data, at + 4 + max(size, 0))[0]
    return count


def read_children(data: bytes, at: int) -> tuple[list[str], Stat, int]:
    """Return the reply to getChildren2: names in no order, the parent's own stat, and how many children it ever had.

    A server sends twice the number of children ever created, minus the present children. Source: ZooKeeper 3.8,
    DataNode.
    """
    (count,) = _INT.unpack_from(data, at)
    at += 4
    names = []
    for _ in range(count):
        (size,) = _INT.unpack_from(data, at)
        at += 4
        names.append(data[at : at + size].decode())
        at += size
    (changes,) = _CHANGES.unpack_from(data, at)
    return names, read_stat(data, at), (changes + count) // 2


def read_results(ops: Sequence[PlainOp], data: bytes, at: int, *, skip: int) -> list[Entry | None]:
    """Return the result of one operation; *skip*: the length of the chroot, which paths start with."""
    (op,) = ops
    if type(op) is Put:
        return [Entry(op.path, op.data, read_stat(data, at), op.record)]
    if type(op) is Create:
        (size,) = _INT.unpack_from(data, at)
        at += 4
        path = data[at : at + size].decode()[skip:]
        return [Entry(path, op.data, read_stat(data, at + size), op.record)]
    return [None]


def read_multi(
    ops: Sequence[PlainOp], data: bytes, at: int, *, skip: int, zxid: int, session_id: int, now: float
) -> list[Entry | None]:
    """Return the results of a transaction that took effect as *zxid*, in *session_id*; *skip*: the length of the
    chroot.

    A server sends only the path of a created znode; the rest of its stat follows from the arguments, except for the
    time, for which *now* (ours, seconds since 1970) stands in. Raises: the StoreError of the operation that failed.
    """
    results: list[Entry | None] = []
    for op in ops:
        kind, _, _ = _MULTI_HEADER.unpack_from(data, at)
        at += 9
        if kind == OP_SET and type(op) is Put:
            results.append(Entry(op.path, op.data, read_stat(data, at), op.record))
            at += 68
        elif kind != -1 and type(op) is Create:
            (size,) = _INT.unpack_from(data, at)
            path = data[at + 4 : at + 4 + size].decode()[skip:]
            at += 4 + size
            if kind == OP_CREATE2:
                stat = read_stat(data, at)
                at += 68
            else:
                stat = Stat(0, zxid, zxid, now, now, session_id if op.ephemeral else 0)
            results.append(Entry(path, op.data, stat, op.record))
        elif kind == -1:
            raise _multi_error(ops, data, at - 9)
        else:
            results.append(None)
    return results


def _multi_error(ops: Sequence[PlainOp], data: bytes, at: int) -> StoreError:
    """Return the error of the operation that failed a transaction; the others report that they were rolled back or not
    tried.

    *at* is the offset of the first result; if one is an error all are, each of the same size.
    """
    for op in ops:
        if at + 13 > len(data):
            break
        (code,) = _INT.unpack_from(data, at + 9)
        if code not in (0, exc.RuntimeInconsistency.error_code):
            return store_error(code, op.path)
        at += 13
    return StoreError(ops[0].path, "the server rolled the transaction back without saying why")


_ERRORS: Final[dict[int, type[StoreError]]] = {
    exc.NoNode.error_code: RecordGoneError,
    exc.NodeExists.error_code: RecordExistsError,
    exc.BadVersion.error_code: VersionConflictError,
    exc.NotEmpty.error_code: NotEmptyError,
    exc.SessionExpired.error_code: SessionLostError,
    exc.SessionMoved.error_code: SessionLostError,
    exc.ConnectionLoss.error_code: StoreUnavailableError,
    exc.OperationTimeout.error_code: StoreUnavailableError,
    exc.NotReadOnly.error_code: StoreUnavailableError,
    exc.NoAuth.error_code: AccessDeniedError,
}
_ADVICE: Final = {
    exc.NoAuth.error_code: "its access control list, or its parent's, does not name us: compare what getAcl shows with"
    " zookeeper-auth, the subject of zookeeper-tls's certificate, and zookeeper-acl",
    exc.InvalidACL.error_code: "the server does not accept our access control list: check that it supports all schemes"
    " of zookeeper-acl and, for scheme auth, that it knows our identity",
}


def name_error(code: int) -> str:
    """Return ZooKeeper's name of the error."""
    named = exc.response_error_xref.get(code)
    return named.__name__ if named else f"ZooKeeper error {code}"


def store_error(code: int, path: str) -> StoreError:
    """Return the StoreError for ZooKeeper's *code*."""
    known = _ERRORS.get(code)
    if known is not None and code not in _ADVICE:
        return known(path)
    advice = f": {_ADVICE[code]}" if code in _ADVICE else ""
    return (known or StoreError)(path, name_error(code) + advice)
