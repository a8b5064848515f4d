"""The store on ZooKeeper 3.6 or newer, for Zuul and for more than one machine.

Keeps the port's promise of no doubt: a write whose reply was lost is looked for once the connection is back, and done
again only if it was not done. Paths are the port's; the chroot is put in front here and nowhere else.
What does *not* belong here: connections (zkclient.py), trees (zktree.py), the bytes (zkwire.py).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

from nodelaunch.errors import (
    LockBusyError,
    LockLostError,
    OutcomeUnknownError,
    RecordExistsError,
    RecordGoneError,
    SessionLostError,
    StoreError,
)
from nodelaunch.protocol.store import (
    ANY_VERSION,
    Check,
    Create,
    Delete,
    Entry,
    Lock,
    Op,
    Put,
    ReleaseLock,
    SessionState,
    TakeLock,
    Tree,
)
from nodelaunch.store.shared import contenders_in
from nodelaunch.store.zkclient import Server, ZkSession
from nodelaunch.store.zklock import ZkLock, new_contender
from nodelaunch.store.zktree import EventLine, OwnWrite, ZkTree
from nodelaunch.store.zkwire import (
    EVENT_DELETED,
    OP_CHILDREN2,
    OP_EXISTS,
    OP_GET,
    OP_MULTI,
    OP_SYNC,
    ConnectionBrokenError,
    PlainOp,
    encode_multi,
    encode_op,
    encode_path,
    opcode_of,
    read_children,
    read_entry,
    read_multi,
    read_result,
    text,
)
from nodelaunch.store.znodes import MAX_DATA

Result = Entry | Lock | None
_NAMES = {Create: "create", Put: "put", Delete: "delete", Check: "check"}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files for mutual TLS with a CA of one's own."""

    cert: str
    key: str
    ca: str

    def context(self) -> ssl.SSLContext:
        """What connections are made with. The server's chain is checked, the name in its certificate is not.

        Raises: ValueError that names the file and what is wrong with it.
        """
        for name, path in (("cert", self.cert), ("key", self.key), ("ca", self.ca)):
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise ValueError(f"{name}: {path} can't be read: {error.strerror}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        try:
            context.load_verify_locations(cafile=self.ca)
        except ssl.SSLError:
            raise ValueError(f"ca: {self.ca} holds no PEM certificate") from None
        try:
            context.load_cert_chain(self.cert, self.key)
        except ssl.SSLError as error:
            if "KEY_VALUES_MISMATCH" in str(error) or error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"key: {self.key} does not belong to certificate {self.cert}") from None
            raise ValueError(f"cert, key: {self.cert} and {self.key} are not a PEM certificate and its key") from None
        return context


class ZooKeeperStore:
    """The port's store. *servers*: host and port of each; one *chroot* for all, with or without a leading slash."""

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        chroot: str = "",
        tls: TlsFiles | None = None,
        session_timeout_s: float = 10.0,
    ) -> None:
        self._chroot = f"/{chroot.strip('/')}" if chroot.strip("/") else ""
        self.session = ZkSession(servers, timeout_s=session_timeout_s, tls=tls.context() if tls else None)
        self.session.on_event = self._on_event
        self.session.on_connected = self._on_connected
        self.session.subscribe(self._on_state)
        self._trees: list[ZkTree] = []
        self._own: list[OwnWrite] = []
        self._line = EventLine()
        self._in_doubt = 0
        self._known: set[str] = set()
        """While writes are in doubt: what is known to be made by another one of ours, so that no two claim it."""
        self._waiters: dict[str, list[asyncio.Event]] = {}

    async def __aenter__(self) -> Self:
        self.session.start()
        try:
            await self.session.connected()
            if self._chroot:
                await self._ensure_chroot()
        except BaseException:
            await self.session.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.session.stop()

    async def _ensure_chroot(self) -> None:
        parts = self._chroot.strip("/").split("/")
        for count in range(1, len(parts) + 1):
            with suppress(RecordExistsError):
                await self._write([Create("/" + "/".join(parts[:count]))], absolute=True)

    @property
    def operations(self) -> Mapping[str, int]:
        return dict(self.session.operations)

    # -- what comes from the session ----------------------------------------------------------------------------------

    def _on_connected(self) -> None:
        self._own.clear()
        self._line.clear()
        for tree in self._trees:
            tree.begin_walk()
        self._wake_waiters(*self._waiters)

    def _on_state(self, state: SessionState) -> None:
        if state is not SessionState.CONNECTED:
            self._line.clear()
            for tree in self._trees:
                tree.cool()
            self._wake_waiters(*self._waiters)

    def _on_event(self, kind: int, path: str) -> None:
        path = path[len(self._chroot) :]
        self._wake_waiters(path)
        for own in self._own:
            if own.is_own(kind, path):
                own.place = own.place or self._line.hold()
                return
        if kind == EVENT_DELETED:
            self._line.tell(lambda: self._tell_trees(lambda tree: tree.on_gone(path)))
        elif any(tree.wants(path) for tree in self._trees):
            self._read_for_trees(path)
        else:
            self._line.tell(lambda: self._tell_trees(lambda tree: tree.on_there(path)))

    def _tell_trees(self, tell: Callable[[ZkTree], None]) -> None:
        for tree in tuple(self._trees):
            tell(tree)

    def _read_for_trees(self, path: str) -> None:
        """Read what an event was about; what comes after it is told after it."""
        place = self._line.hold()

        def take_in(_zxid: int, body: bytes) -> None:
            entry = read_entry(path, body)
            self._line.fill(place, lambda: self._tell_trees(lambda tree: tree.on_entry(entry)))

        self.session.post(
            "get", OP_GET, encode_path(self._chroot + path), path=path,
            take_in=take_in, on_failure=lambda: self._line.fill(place, lambda: None),
        )  # fmt: skip

    def _wake_waiters(self, *paths: str) -> None:
        for path in paths:
            for waiter in self._waiters.get(path, ()):
                waiter.set()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _asking(self, send: Callable[[], asyncio.Future[object]]) -> object:
        """The answer to a question, asked again as often as the connection breaks. Raises: StoreError."""
        epoch = self.session.epoch
        while True:
            await self.session.usable(epoch)
            try:
                return await send()
            except ConnectionBrokenError:
                continue

    def _send_get(self, path: str) -> asyncio.Future[object]:
        return self.session.request(
            "get", OP_GET, encode_path(self._chroot + path), path=path,
            take_in=lambda _zxid, body: read_entry(path, body),
        )  # fmt: skip

    def _send_children(self, path: str) -> asyncio.Future[object]:
        return self.session.request(
            "children", OP_CHILDREN2, encode_path(self._chroot + path), path=path,
            take_in=lambda _zxid, body: read_children(body)[0],
        )  # fmt: skip

    async def get(self, path: str) -> Entry:
        return cast("Entry", await self._asking(lambda: self._send_get(path)))

    async def get_many(self, paths: Sequence[str]) -> list[Entry | None]:
        async def find(path: str) -> Entry | None:
            try:
                return await self.get(path)
            except RecordGoneError:
                return None

        return list(await asyncio.gather(*(find(path) for path in paths)))

    async def children(self, path: str) -> list[str]:
        return sorted(cast("list[str]", await self._asking(lambda: self._send_children(path))))

    async def contenders(self, path: str) -> list[str]:
        with suppress(RecordGoneError):
            return contenders_in(path, await self.children(path))
        return []

    # -- writing ------------------------------------------------------------------------------------------------------

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, parents: bool = False
    ) -> Entry:
        op = Create(path, data, ephemeral, sequence)
        try:
            (entry,) = await self._write([op])
        except RecordGoneError:
            if not parents:
                raise
            await self.ensure(path.rpartition("/")[0])
            (entry,) = await self._write([op])
        return cast("Entry", entry)

    async def ensure(self, *paths: str) -> None:
        for path in paths:
            await self._ensure(path)

    async def _ensure(self, path: str) -> None:
        if not path:
            return
        try:
            await self._write([Create(path)])
        except RecordExistsError:
            pass
        except RecordGoneError:
            await self._ensure(path.rpartition("/")[0])
            await self._ensure(path)

    async def put(self, path: str, data: bytes, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> Entry:
        (entry,) = await self._write([Put(path, data, version)], under)
        return cast("Entry", entry)

    async def delete(self, path: str, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> None:
        await self._write([Delete(path, version)], under)

    async def delete_tree(self, path: str) -> None:
        for _ in range(10):  # somebody may put something in while it is emptied
            with suppress(RecordGoneError):
                for name in await self.children(path):
                    await self.delete_tree(f"{path}/{name}")
            try:
                await self.delete(path)
            except RecordGoneError:
                return
            except StoreError as error:
                last = error
            else:
                return
        raise last

    async def _write(
        self, ops: Sequence[PlainOp], under: Collection[Lock] = (), *, absolute: bool = False
    ) -> list[Entry | None]:
        """Perform *ops* as one transaction, exactly once. Raises: StoreError."""
        epoch = self.session.epoch
        for op in ops:
            if isinstance(op, Create | Put) and len(op.data) >= MAX_DATA:
                raise StoreError(op.path, f"{len(op.data)} bytes are more than a znode may hold ({MAX_DATA - 1})")
        while True:
            await self.session.usable(epoch)
            for lock in under:
                if not lock.is_held:
                    raise LockLostError(lock.contender)
            before = self.session.last_zxid
            try:
                return await self._send_write(ops, absolute=absolute)
            except ConnectionBrokenError:
                self._in_doubt += 1
                try:
                    done = await self._find_out(ops, before, absolute=absolute)
                finally:
                    self._in_doubt -= 1
                    if not self._in_doubt:
                        self._known.clear()
            if done is not None:
                return done

    async def _send_write(self, ops: Sequence[PlainOp], *, absolute: bool) -> list[Entry | None]:
        chroot = "" if absolute else self._chroot
        own = OwnWrite(ops)
        self._own.append(own)
        sent = [replace(op, path=chroot + op.path) for op in ops]

        def take_in(zxid: int, body: bytes) -> list[Entry | None]:
            if len(sent) > 1:
                session_id = self.session.session_id
                results = read_multi(sent, body, zxid=zxid, session_id=session_id, now=time.time())
            else:
                results = [read_result(sent[0], body)[0]]
            mine = [entry and replace(entry, path=entry.path[len(chroot) :]) for entry in results]
            self._settle(own, mine)
            return mine

        def failed() -> None:
            self._settle(own, [])

        if len(sent) == 1:
            (op,) = sent
            name, code, body = _NAMES[type(op)], opcode_of(op), encode_op(op)
        else:
            name, code, body = "commit", OP_MULTI, encode_multi(sent)
        path = ops[0].path
        reply = self.session.request(name, code, body, path=path, take_in=take_in, on_failure=failed)
        try:
            results = cast("list[Entry | None]", await reply)
        except StoreError as error:
            error.path = error.path[len(chroot) :] if chroot and error.path.startswith(chroot + "/") else error.path
            raise
        await own.told()
        return results

    def _settle(self, own: OwnWrite, written: Sequence[Entry | None]) -> None:
        """The reply to a write of ours: the trees get it in its turn, and what else its events may have told of."""
        if own in self._own:
            self._own.remove(own)
        entries = [entry for entry in written if entry is not None]
        if self._in_doubt:
            self._known |= {entry.path for entry in entries}

        def tell() -> None:
            for entry in entries:
                self._tell_trees(partial(ZkTree.on_entry, entry=entry))

        if own.place is None:
            own.place = self._line.hold()
        self._line.fill(own.place, tell)
        known = {entry.path for entry in entries}
        for path in own.swallowed:
            if path not in known and any(tree.wants(path) for tree in self._trees):
                self._read_for_trees(path)

    # -- doubt --------------------------------------------------------------------------------------------------------

    async def _find_out(self, ops: Sequence[PlainOp], before: int, *, absolute: bool) -> list[Entry | None] | None:
        """Whether a write without a reply was done: its results; None when it was not, and may be done again.

        *before*: the last zxid known when it was sent. Raises: OutcomeUnknownError.
        """
        if absolute:
            return None
        # Another server of the ensemble may lag behind the one that did it.
        await self._asking(lambda: self.session.request("sync", OP_SYNC, text(self._chroot or "/")))
        for op in ops:
            verdict = await self._witness(op, before)
            if verdict is False:
                return None
            if verdict is not None:
                return [await self._result_of(each, verdict) for each in ops]
        raise OutcomeUnknownError(ops[0].path, "the connection broke before the answer")

    async def _witness(self, op: PlainOp, before: int) -> int | bool | None:
        """What one operation tells of its transaction: done as of some zxid, False: not done, None: can't tell."""
        match op:
            case Create(path, data, _, True):
                found = await self._numbered(path, data, before)
                if not found:
                    return False
                self._known.add(found[0].path)
                return found[0].stat.created_zxid
            case Create(path, data):
                (entry,) = await self.get_many([path])
                if entry is None:
                    return False
                is_ours = entry.stat.created_zxid > before and (entry.data == data or entry.stat.version > 0)
                return entry.stat.created_zxid if is_ours else False
            case Put(path, data, version):
                (entry,) = await self.get_many([path])
                if entry is None:
                    return None
                if entry.stat.modified_zxid <= before:
                    return False
                if entry.data == data and version in (ANY_VERSION, entry.stat.version - 1):
                    return entry.stat.modified_zxid
                return False if version != ANY_VERSION and entry.stat.version == version else None
            case Delete(path):
                (entry,) = await self.get_many([path])
                return before + 1 if entry is None else False
            case _:
                return None

    async def _numbered(self, prefix: str, data: bytes, after: int, *, among_known: bool = False) -> list[Entry]:
        """Children created with a sequence number at *prefix* with *data*, later than zxid *after*."""
        parent, _, name = prefix.rpartition("/")
        try:
            names = [child for child in await self.children(parent) if child.startswith(name)]
        except RecordGoneError:
            return []
        entries = await self.get_many([f"{parent}/{child}" for child in names])
        alike = [e for e in entries if e is not None and e.stat.created_zxid > after and e.data == data]
        return alike if among_known else [e for e in alike if e.path not in self._known]

    async def _result_of(self, op: PlainOp, zxid: int) -> Entry | None:
        match op:
            case Create(path, data, _, True):
                found = await self._numbered(path, data, zxid - 1, among_known=True)
                exact = [entry for entry in found if entry.stat.created_zxid == zxid]
                if len(exact) == 1:
                    return exact[0]
                raise OutcomeUnknownError(path, "done, but what was created can't be told")
            case Create(path) | Put(path):
                return await self.get(path)
            case _:
                return None

    # -- transactions and locks ---------------------------------------------------------------------------------------

    async def commit(self, ops: Sequence[Op], *, under: Collection[Lock] = ()) -> list[Result]:
        if ops and isinstance(ops[0], TakeLock):
            return await self._commit_taking(ops[0], ops[1:], under)
        return await self._commit_plain(ops, under)

    async def _commit_plain(self, ops: Sequence[Op], under: Collection[Lock]) -> list[Result]:
        released = [op.lock for op in ops if isinstance(op, ReleaseLock)]
        try:
            results = await self._write([_plain(op) for op in ops], [*under, *released])
        except RecordGoneError as error:
            if any(lock.contender == error.path for lock in released):
                raise LockLostError(error.path) from None
            raise
        for lock in released:
            if isinstance(lock, ZkLock):
                lock.forget()
        return list(results)

    async def _commit_taking(self, take: TakeLock, rest: Sequence[Op], under: Collection[Lock]) -> list[Result]:
        """Where the lock's directory is new, one transaction; the lock is ours because nobody else can contend yet."""
        contender = Create(new_contender(take.path), take.identifier, ephemeral=True, sequence=True)
        epoch = self.session.epoch
        plain = [Create(take.path), contender, *(_plain(op) for op in rest)]
        try:
            results = await self._uncancelled(self._write(plain, under), contender)
        except RecordExistsError as error:
            if error.path != take.path:
                raise
        else:
            entry = results[1]
            assert entry is not None  # noqa: S101
            return [self._locked(epoch, take.path, entry.path), *results[2:]]
        lock = await self.lock(take.path, identifier=take.identifier)
        try:
            return [lock, *(await self._commit_plain(rest, [*under, lock]) if rest else [])]
        except BaseException:
            await lock.release()
            raise

    async def _uncancelled(
        self, work: Coroutine[Any, Any, list[Entry | None]], contender: Create
    ) -> list[Entry | None]:
        """Await a write that makes a contender; when we are cancelled meanwhile, the contender is removed again."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with suppress(StoreError):
                for entry in await task:
                    if entry is not None and entry.path.startswith(contender.path):
                        await self.delete(entry.path)
            raise

    def _locked(self, epoch: int, path: str, contender: str) -> ZkLock:
        return ZkLock(self.session, epoch, path, contender, self._drop)

    async def _drop(self, contender: str) -> None:
        with suppress(RecordGoneError, SessionLostError):
            await self.delete(contender)

    async def lock(
        self,
        path: str,
        *,
        timeout_s: float = 0.0,
        identifier: bytes = b"",
        ephemeral: bool = True,
        parents: bool = False,
    ) -> Lock:
        if parents:
            await self.ensure(path.rpartition("/")[0])
        epoch = self.session.epoch
        contender = await self._contend(path, identifier, ephemeral=ephemeral)
        try:
            async with asyncio.timeout(timeout_s) if timeout_s else _no_limit():
                await self._lead(path, contender, waits=timeout_s > 0)
        except BaseException as error:
            await asyncio.shield(self._drop(contender))
            if isinstance(error, TimeoutError):
                raise LockBusyError(path) from None
            raise
        return self._locked(epoch, path, contender)

    async def _contend(self, path: str, identifier: bytes, *, ephemeral: bool) -> str:
        op = Create(new_contender(path), identifier, ephemeral, sequence=True)
        try:
            results = await self._uncancelled(self._write([op]), op)
        except RecordGoneError:
            with suppress(RecordExistsError):
                await self._write([Create(path)])  # fails where the parent is gone: it is not brought back
            results = await self._uncancelled(self._write([op]), op)
        return cast("Entry", results[0]).path

    async def _lead(self, path: str, contender: str, *, waits: bool) -> None:
        """Return once *contender* is the first one. Raises: LockBusyError when it is not and we don't wait."""
        epoch = self.session.epoch
        while True:
            self.session.check(epoch)
            order = await self.contenders(path)
            if contender not in order:
                raise LockLostError(contender)
            at = order.index(contender)
            if at == 0:
                return
            if not waits:
                raise LockBusyError(path)
            await self._until_changed(order[at - 1])

    async def _until_changed(self, path: str) -> None:
        """Wait until something happens to *path*, or the connection or session changes; at once when it is gone."""
        changed = asyncio.Event()
        self._waiters.setdefault(path, []).append(changed)
        try:
            await self._asking(
                lambda: self.session.request(
                    "watch", OP_EXISTS, encode_path(self._chroot + path, watch=True), path=path
                )
            )
            await changed.wait()
        except RecordGoneError:
            return
        finally:
            self._waiters[path].remove(changed)
            if not self._waiters[path]:
                del self._waiters[path]

    # -- trees --------------------------------------------------------------------------------------------------------

    def tree(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool] = lambda _path: True,
        may_lag: Callable[[str], bool] = lambda _path: False,  # noqa: ARG002  it never has to
        keeps_data: bool = True,  # noqa: ARG002  they are there anyway
    ) -> AbstractAsyncContextManager[Tree]:
        return self._tree(root, wants_data)

    @asynccontextmanager
    async def _tree(self, root: str, wants_data: Callable[[str], bool]) -> AsyncIterator[Tree]:
        tree = ZkTree(self.session, root, self._chroot, wants_data)
        self._trees.append(tree)
        if self.session.state is SessionState.CONNECTED:
            tree.begin_walk()
        try:
            yield tree
        finally:
            self._trees.remove(tree)
            tree.cool()


@asynccontextmanager
async def _no_limit() -> AsyncIterator[None]:
    yield


def _plain(op: Op) -> PlainOp:
    match op:
        case ReleaseLock(lock):
            return Delete(lock.contender)
        case TakeLock(path):
            raise ValueError(f"{path}: a lock is taken at the beginning of a transaction")
        case _:
            return op
