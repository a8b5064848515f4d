"""The embedded store for other processes of this machine, through a unix socket next to its file.

`StoreServer` gives each connection a separate session on the served store; its locks and ephemerals end with the
connection. `SocketStore` is the other end and gives the port's guarantees; when the connection breaks, its session is
lost, and the store can't be used any more. A message is one line with a JSON object; binary data is base64. The socket
is not for networks. A process that may open the socket's directory may do everything.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import socket
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

from msgspec.structs import astuple

from nodelaunch import errors
from nodelaunch.errors import SessionLostError, StoreError, StoreUnavailableError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.store import (
    ANY_VERSION,
    Changed,
    CheckVersion,
    Create,
    Delete,
    Entry,
    Lock,
    Op,
    Put,
    ReleaseLock,
    Removed,
    SessionState,
    Stale,
    Stat,
    Synced,
    TakeLock,
    Tree,
    TreeEvent,
)
from nodelaunch.store.embedded.store import EmbeddedLock, EmbeddedSession, EmbeddedStore, EmbeddedTree
from nodelaunch.store.shared import contenders_in

log: Logger = get_logger(__name__)

VERSION = 1
"""Version of the socket's messages; both ends must agree."""
MAX_LINE = 4 << 20
"""Most bytes of a message; a znode may have 1 MiB."""
MAX_UNREAD = 32 << 20
"""Most bytes that may wait for a client that does not read; a client with more is disconnected."""
Message = dict[str, Any]


# -- what goes over the wire ----------------------------------------------------------------------------------------


def _pack(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _entry_out(entry: Entry | None) -> Any:
    return None if entry is None else [entry.path, _pack(entry.data), *astuple(entry.stat)]


def _entry_in(value: Any) -> Entry:
    path, data, *numbers = value
    return Entry(path, base64.b64decode(data), Stat(*numbers))


def _op_out(op: Op, lock_id: Callable[[Lock], int]) -> Message:
    match op:
        case Create(path, data, ephemeral, sequence):
            return {"op": "create", "path": path, "data": _pack(data), "ephemeral": ephemeral, "sequence": sequence}
        case Put(path, data, version):
            return {"op": "put", "path": path, "data": _pack(data), "version": version}
        case Delete(path, version):
            return {"op": "delete", "path": path, "version": version}
        case CheckVersion(path, version):
            return {"op": "check", "path": path, "version": version}
        case TakeLock(path, identifier):
            return {"op": "take", "path": path, "identifier": _pack(identifier)}
        case ReleaseLock(lock):
            return {"op": "release", "lock": lock_id(lock)}


def _text(message: Message, key: str) -> str:
    value = message[key]
    if not isinstance(value, str):
        raise TypeError(f"{key}: a text was expected")
    return value


def _path(message: Message) -> str:
    path = _text(message, "path")
    if not path.startswith("/"):
        raise ValueError("path: it must begin with a slash")
    return path


def _op_in(message: Message, lock_of: Callable[[int], Lock]) -> Op:
    if message["op"] == "release":
        return ReleaseLock(lock_of(message["lock"]))
    path = _path(message)
    match message["op"]:
        case "create":
            data = base64.b64decode(message["data"])
            return Create(path, data, bool(message["ephemeral"]), bool(message["sequence"]))
        case "put":
            return Put(path, base64.b64decode(message["data"]), int(message["version"]))
        case "delete":
            return Delete(path, int(message["version"]))
        case "check":
            return CheckVersion(path, int(message["version"]))
        case "take":
            return TakeLock(path, base64.b64decode(message["identifier"]))
        case other:
            raise ValueError(f"unknown operation {other!r}")


def _error_out(error: StoreError) -> Message:
    return {"error": type(error).__name__, "path": error.path, "detail": error.detail}


def _error_in(message: Message) -> StoreError:
    kind = getattr(errors, message["error"], StoreError)
    known: type[StoreError] = kind if isinstance(kind, type) and issubclass(kind, StoreError) else StoreError
    return known(message["path"], message["detail"])


# -- the serving end ------------------------------------------------------------------------------------------------


class StoreServer:
    """Serves *store* at *path* inside the ``async with`` block. Raises: StoreUnavailableError if it can't listen."""

    def __init__(self, store: EmbeddedStore, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self._store = store
        self._stack = AsyncExitStack()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._check_directory()
        self.path.unlink(missing_ok=True)  # this process owns the store's file, so an earlier server here is dead
        try:
            listening = _bind(self.path)
            server = await asyncio.start_unix_server(self._accept, sock=listening, limit=MAX_LINE)
        except OSError as error:
            raise StoreUnavailableError(str(self.path), f"can't listen: {error.strerror}") from None
        self._stack.push_async_callback(self._close, server)
        return self

    def _check_directory(self) -> None:
        mode = self.path.parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise StoreUnavailableError(
                str(self.path.parent), "every user may write to this directory; refusing to listen"
            )

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._connections.add(task)
        try:
            async with self._store.connect() as session:
                await _Connection(session, reader, writer).run()
        except* asyncio.CancelledError:
            pass  # the server ends
        except* (OSError, ValueError, KeyError, TypeError, asyncio.LimitOverrunError) as group:
            for error in _each(group):
                log.warning("store_client_dropped", error=type(error).__name__, detail=str(error)[:200])
        except* Exception:
            log.exception("store_client_dropped")
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _bind(path: Path) -> socket.socket:
    """Return a socket at *path* that only this process's user can connect to, from its first moment."""
    bound = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        bound.bind(str(path))
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(mask)
    return bound


def _each(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    """Yield the errors of *group*, with groups within it opened."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


class _Connection:
    """The connection of one client."""

    def __init__(self, store: EmbeddedStore, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._store = store
        self._reader = reader
        self._writer = writer
        self._locks: dict[int, Lock] = {}
        self._numbers = itertools.count(1)
        self._trees = AsyncExitStack()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._granted: dict[int, int] = {}
        """Held locks, by the calls that took them."""

    async def run(self) -> None:
        hello = await self._read()
        self._send({"version": VERSION})
        if hello is None or hello.get("version") != VERSION:
            return
        async with self._trees, asyncio.TaskGroup() as group:
            while (message := await self._read()) is not None:
                number = int(message["id"])
                if "cancel" in message:
                    group.create_task(self._cancel(number))
                else:
                    self._calls[number] = group.create_task(self._answer(message))
            for call in self._calls.values():
                call.cancel()

    async def _read(self) -> Message | None:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            return None
        message = json.loads(line)
        if not isinstance(message, dict):
            raise TypeError("an object was expected")
        return message

    def _send(self, message: Message) -> None:
        unread = self._writer.transport.get_write_buffer_size()
        if unread > MAX_UNREAD and not self._writer.is_closing():
            log.warning("store_client_dropped", error="unread", detail=f"{unread} bytes wait for it to read them")
            self._writer.transport.abort()
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def _answer(self, message: Message) -> None:
        number = int(message["id"])
        try:
            result = await self._call(number, message["call"], message.get("args", {}))
        except StoreError as error:
            self._send({"id": number, **_error_out(error)})
        else:
            self._send({"id": number, "result": result})
        finally:
            self._calls.pop(number, None)

    async def _cancel(self, number: int) -> None:
        """End a call; locks that it was granted meanwhile are released."""
        if number in self._calls:
            self._calls[number].cancel()
        lock = self._forget(self._granted.get(number, 0))
        if lock is not None:
            await lock.release()

    def _forget(self, number: int) -> Lock | None:
        """Remove and return a lock that is being released, if it still exists."""
        for call, lock in self._granted.items():
            if lock == number:
                del self._granted[call]
                break
        return self._locks.pop(number, None)

    def _lock(self, number: int) -> Lock:
        if number not in self._locks:
            raise errors.LockLostError(detail="no such lock")
        return self._locks[number]

    def _keep(self, call: int, lock: Lock) -> Any:
        number = next(self._numbers)
        self._locks[number] = lock
        self._granted[call] = number
        return [number, lock.path, lock.contender, lock.fence]

    async def _commit(self, call: int, args: Message) -> Any:
        ops = [_op_in(op, self._lock) for op in args["ops"]]
        results = await self._store.commit(ops, under=[self._lock(number) for number in args["under"]])
        for op in args["ops"]:
            if op["op"] == "release":
                self._forget(op["lock"])
        return [
            {"entry": _entry_out(result)}
            if result is None or isinstance(result, Entry)
            else {"lock": self._keep(call, result)}
            for result in results
        ]

    async def _call(self, number: int, call: str, args: Message) -> Any:
        store = self._store
        match call:
            case "get_many":
                return [_entry_out(entry) for entry in await store.get_many(args["paths"])]
            case "children":
                return await store.children(args["path"])
            case "ensure":
                return await store.ensure(*args["paths"])
            case "delete_tree":
                return await store.delete_tree(_path(args))
            case "commit":
                return await self._commit(number, args)
            case "lock":
                lock = await store.lock(
                    _path(args), timeout_s=args["timeout_s"], identifier=base64.b64decode(args["identifier"]),
                    ephemeral=args["ephemeral"], parents=args["parents"],
                )  # fmt: skip
                return self._keep(number, lock)
            case "release":
                released = self._forget(args["lock"])
                return None if released is None else await released.release()
            case "tree":
                return await self._open_tree(int(args["tree"]), _text(args, "root"))
            case other:
                raise ValueError(f"unknown call {other!r}")

    async def _open_tree(self, number: int, root: str) -> Any:
        tree = await self._trees.enter_async_context(self._store.tree(root))

        def on_event(event: TreeEvent) -> None:
            match event:
                case Changed(entry, _):
                    self._send({"tree": number, "changed": _entry_out(entry)})
                case Removed(entry):
                    self._send({"tree": number, "removed": entry.path})
                case Synced() | Stale():
                    pass  # the client's session ends with ours

        self._trees.callback(tree.subscribe(on_event))
        for known in tree.entries():
            await self._writer.drain()
            entry = tree.get(known.path)  # the present entry: later changes were reported
            if entry is not None:
                self._send({"tree": number, "changed": _entry_out(entry)})
        return []


# -- the asking end -------------------------------------------------------------------------------------------------


class _RemoteLock(EmbeddedLock):
    """A lock held by this connection's session."""

    def __init__(self, store: SocketStore, number: int, path: str, contender: str, fence: int) -> None:
        super().__init__(store, path, contender, fence)  # type: ignore[arg-type]  # only its session is used
        self.number = number
        self._remote = store

    async def release(self) -> None:
        if self.is_held:
            self.forget()
            with suppress(StoreError):
                await asyncio.shield(self._remote.call("release", lock=self.number))


_MOVED = " If embedded-store was changed while the launcher runs, it serves the old store until it is restarted"


class SocketStore:
    """The port's store, served by another process at socket *path*."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self.session: EmbeddedSession = EmbeddedSession()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._trees: dict[int, EmbeddedTree] = {}
        self._operations: Counter[str] = Counter()
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=MAX_LINE)
        except OSError as error:
            raise StoreUnavailableError(
                str(self.path), f"{error.strerror}; is 'nodelaunch serve' running with this configuration?{_MOVED}"
            ) from None
        self._writer = writer
        self._send({"version": VERSION})
        greeting = await reader.readline()
        version = json.loads(greeting).get("version") if greeting else None
        if version != VERSION:
            await self._hang_up()
            raise StoreUnavailableError(str(self.path), f"the launcher speaks version {version}, this is {VERSION}")
        self.session.id, self.session.epoch = 1, 1
        self.session.enter(SessionState.CONNECTED)
        self._listening = asyncio.ensure_future(self._listen(reader))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._hang_up()
        self.session.enter(SessionState.CLOSED)

    async def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()

    def _send(self, message: Message) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Read answers and events until the connection ends, and with it the session."""
        try:
            while line := await reader.readline():
                self._take_in(json.loads(line))
        except (OSError, ValueError) as error:
            log.warning("store_connection_broken", path=str(self.path), detail=str(error))
        finally:
            self.session.enter(SessionState.LOST)
            for tree in self._trees.values():
                tree.set_synced(False)
            locks, self.session.locks = self.session.locks, set()
            for lock in locks:
                lock.lose()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(SessionLostError(detail="the connection to the store's owner broke"))

    def _take_in(self, message: Message) -> None:
        if "tree" in message:
            self._on_tree_event(message)
            return
        answer = self._answers.get(message["id"])
        if answer is None or answer.done():
            self._send({"id": message["id"], "cancel": True})  # the caller does not want the result any more
            return
        if "error" in message:
            answer.set_exception(_error_in(message))
        else:
            answer.set_result(message["result"])

    def _on_tree_event(self, message: Message) -> None:
        tree = self._trees.get(message["tree"])
        if tree is None:
            return
        if "changed" in message:
            tree.put_entry(_entry_in(message["changed"]))
        else:
            tree.drop_entry(message["removed"])

    async def call(self, name: str, **args: Any) -> Any:
        """Make one call to the other end. Raises: StoreError."""
        if self.session.state is not SessionState.CONNECTED:
            raise SessionLostError(detail=f"the session is {self.session.state.value}")
        self._operations[name] += 1
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._send({"id": number, "call": name, "args": args})
            return await answer
        except asyncio.CancelledError:
            self._send({"id": number, "cancel": True})
            raise
        finally:
            del self._answers[number]

    @property
    def operations(self) -> Mapping[str, int]:
        return dict(self._operations)

    # -- the port ---------------------------------------------------------------------------------------------------

    async def get(self, path: str) -> Entry:
        (entry,) = await self.get_many([path])
        if entry is None:
            raise errors.RecordGoneError(path)
        return entry

    async def get_many(self, paths: Sequence[str]) -> list[Entry | None]:
        found = await self.call("get_many", paths=list(paths))
        return [None if entry is None else _entry_in(entry) for entry in found]

    async def children(self, path: str) -> list[str]:
        names: list[str] = await self.call("children", path=path)
        return names

    async def contenders(self, path: str) -> list[str]:
        with suppress(errors.RecordGoneError):
            return contenders_in(path, await self.children(path))
        return []

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, parents: bool = False
    ) -> Entry:
        if parents and "/" in path.strip("/"):
            await self.ensure(path.rpartition("/")[0])
        (entry,) = await self.commit([Create(path, data, ephemeral, sequence)])
        assert isinstance(entry, Entry)  # noqa: S101
        return entry

    async def ensure(self, *paths: str) -> None:
        await self.call("ensure", paths=list(paths))

    async def put(self, path: str, data: bytes, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> Entry:
        (entry,) = await self.commit([Put(path, data, version)], under=under)
        assert isinstance(entry, Entry)  # noqa: S101
        return entry

    async def delete(self, path: str, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> None:
        await self.commit([Delete(path, version)], under=under)

    async def delete_tree(self, path: str) -> None:
        await self.call("delete_tree", path=path)

    async def create_locked(self, path: str, data: bytes, *, record: object = None) -> tuple[Entry, Lock] | None:  # noqa: ARG002
        return None

    async def commit(self, ops: Sequence[Op], *, under: Collection[Lock] = ()) -> list[Entry | Lock | None]:
        numbers = [_number(lock) for lock in under]
        answers = await self.call("commit", ops=[_op_out(op, _number) for op in ops], under=numbers)
        for op in ops:
            if isinstance(op, ReleaseLock) and isinstance(op.lock, _RemoteLock):
                op.lock.forget()
        return [self._result(answer) for answer in answers]

    def _result(self, answer: Message) -> Entry | Lock | None:
        if "lock" in answer:
            return self._hold(*answer["lock"])
        return None if answer["entry"] is None else _entry_in(answer["entry"])

    def _hold(self, number: int, path: str, contender: str, fence: int) -> _RemoteLock:
        lock = _RemoteLock(self, number, path, contender, fence)
        self.session.locks.add(lock)
        return lock

    async def lock(
        self,
        path: str,
        *,
        timeout_s: float = 0.0,
        identifier: bytes = b"",
        ephemeral: bool = True,
        parents: bool = False,
    ) -> Lock:
        answer = await self.call(
            "lock", path=path, timeout_s=timeout_s, identifier=_pack(identifier), ephemeral=ephemeral, parents=parents
        )
        return self._hold(*answer)

    @asynccontextmanager
    async def tree(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool] = lambda _path: True,
        may_lag: Callable[[str], bool] = lambda _path: False,  # noqa: ARG002  it never has to
        keeps_data: bool = True,  # noqa: ARG002  they are there anyway
    ) -> AsyncIterator[Tree]:
        number = next(self._numbers)
        tree = EmbeddedTree(root, (), wants_data)
        self._trees[number] = tree
        try:
            for entry in await self.call("tree", tree=number, root=root):
                known = tree.get(entry[0])
                if known is None or known.stat.modified_zxid < _entry_in(entry).stat.modified_zxid:
                    tree.put_entry(_entry_in(entry))
            yield tree
        finally:
            del self._trees[number]


def _number(lock: Lock) -> int:
    if not isinstance(lock, _RemoteLock) or not lock.is_held:
        raise errors.LockLostError(lock.contender)
    return lock.number
