"""The store on ZooKeeper 3.6 or newer, for Zuul and for more than one machine.

Gives the port's guarantees. Paths are the port's; the chroot is prepended only where bytes are made. Its parts:
connections (dial.py, connection.py), the session (session.py), reads (reads.py), writes (writes.py, and recovery.py for
writes whose reply was lost), locks (locks.py), trees (tree.py, forest.py), the bytes (wire.py).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nodelaunch.errors import RecordExistsError, RecordGoneError, SessionLostError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.store import ANY_VERSION, Create, Delete, Entry, Lock, Op, Put, Tree
from nodelaunch.store.zookeeper.dial import ClientIdentity, Server
from nodelaunch.store.zookeeper.forest import Forest
from nodelaunch.store.zookeeper.locks import Locks, Result
from nodelaunch.store.zookeeper.reads import Reader
from nodelaunch.store.zookeeper.session import ConnectionListener, ZkSession
from nodelaunch.store.zookeeper.tree import ZkTree
from nodelaunch.store.zookeeper.wire import (
    BROKEN,
    NODE_EXISTS,
    OP_CREATE2,
    OPEN_TO_ALL,
    Acl,
    encode_acls,
    encode_write,
    store_error,
)
from nodelaunch.store.zookeeper.writes import Writer

log: Logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files for mutual TLS with a private CA."""

    cert: str
    key: str
    ca: str
    checks_host_name: bool = False

    def context(self) -> ssl.SSLContext:
        """Return the TLS context for connections. The server's chain is checked; the name in its certificate is checked
        if that is configured.

        Raises: ValueError that names the file and its fault.
        """
        for name, path in (("cert", self.cert), ("key", self.key), ("ca", self.ca)):
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise ValueError(f"{name}: {path} can't be read: {error.strerror}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.checks_host_name
        try:
            context.load_verify_locations(cafile=self.ca)
        except ssl.SSLError:
            raise ValueError(f"ca: {self.ca} has no PEM certificate") from None
        try:
            context.load_cert_chain(self.cert, self.key, password=self._refuse_passphrase)
        except ssl.SSLError as error:
            if "KEY_VALUES_MISMATCH" in str(error) or error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"key: {self.key} does not belong to certificate {self.cert}") from None
            raise ValueError(f"cert, key: {self.cert} and {self.key} are not a PEM certificate and its key") from None
        return context

    def _refuse_passphrase(self) -> str:
        """Refuse an encrypted key: OpenSSL would ask for the passphrase on the terminal."""
        raise ValueError(f"key: {self.key} is encrypted; give a key without a passphrase, readable by this user only")


class ZooKeeperStore:
    """The port's store. *servers*: host and port of each; one *chroot* for all, with or without a leading slash.

    The chroot is created if it is missing, at each new session, so that a launcher survives the loss of all data in
    ZooKeeper. If *makes_chroot* is false, a missing chroot is an error: the name is wrong, or no launcher has used it.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        chroot: str = "",
        tls: TlsFiles | None = None,
        identity: ClientIdentity | None = None,
        acls: Sequence[Acl] = (),
        session_timeout_s: float = 10.0,
        makes_chroot: bool = True,
    ) -> None:
        """*acls*: for every created znode; empty: open to all, as Zuul and Nodepool create znodes."""
        self._makes_chroot = makes_chroot
        self._acls = encode_acls(acls) if acls else OPEN_TO_ALL
        self._chroot = f"/{chroot.strip('/')}" if chroot.strip("/") else ""
        context = tls.context() if tls else None
        self.session: ZkSession = ZkSession(servers, timeout_s=session_timeout_s, tls=context, identity=identity)
        self._forest = Forest(self.session, self._chroot)
        self._reader = Reader(self.session, self._chroot)
        self._writer = Writer(self.session, self._forest, self._reader, self._chroot, self._acls)
        self._locks = Locks(self.session, self._forest, self._reader, self._writer)
        self._rooted_epoch = 0
        """The session in which the chroot was created or seen; 0: none."""

    async def _see_chroot(self) -> None:
        """Wait for a session in which the chroot is seen: the first session may be lost soon.

        Raises: RecordGoneError if there is no chroot.
        """
        while True:
            await self.session.connected()
            with suppress(SessionLostError):
                if self._chroot:
                    await self._reader.get("/")
                return

    async def __aenter__(self) -> Self:
        self.session.start(ConnectionListener(self._forest.on_event, self._on_connected, self._forest.on_suspended))
        try:
            await self._see_chroot()
        except RecordGoneError:
            await self.session.stop()
            why = "and can't be created" if self._makes_chroot else "so no launcher has used it: check 'chroot'"
            raise StoreError(self._chroot, f"the chroot is missing, {why}") from None
        except BaseException:
            await self.session.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.session.stop()

    def _on_connected(self) -> None:
        if self._rooted_epoch != self.session.epoch:
            self._rooted_epoch = self.session.epoch
            self._make_chroot()
        self._forest.on_connected()

    def _make_chroot(self) -> None:
        """Create the chroot before any other request: later requests on this connection find it."""
        if not self._makes_chroot:
            return
        parts = self._chroot.split("/")
        for count in range(2, len(parts) + 1):
            path = "/".join(parts[:count])
            self.session.send(
                "create", OP_CREATE2, encode_write(b"", [Create(path)], self._acls)[1], self._on_chroot, path
            )

    def _on_chroot(self, path: str, error: int, _zxid: int, _data: bytes, _at: int) -> None:
        if error == BROKEN:
            # The server may not have received it: the next connection of this session sends it again.
            self._rooted_epoch = 0
        elif not error and path == self._chroot:
            log.warning("zookeeper_chroot_made", chroot=path, detail="no launcher had used it; does Zuul use the same?")
        elif error and error != NODE_EXISTS:
            log.error("zookeeper_chroot_refused", path=path, detail=store_error(error, path).detail)

    @property
    def trouble(self) -> str | None:
        """The reason why there is no connection; None if there is one."""
        return None if self.session.is_connected else self.session.dialer.trouble

    @property
    def operations(self) -> Mapping[str, int]:
        return dict(self.session.operations)

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Coroutine[Any, Any, Entry]:
        return self._reader.get(path)

    def get_many(self, paths: Sequence[str]) -> Coroutine[Any, Any, list[Entry | None]]:
        return self._reader.get_many(paths)

    def children(self, path: str) -> Coroutine[Any, Any, list[str]]:
        return self._reader.children(path)

    def contenders(self, path: str) -> Coroutine[Any, Any, list[str]]:
        return self._reader.contenders(path)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, parents: bool = False
    ) -> Entry:
        op = Create(path, data, ephemeral, sequence)
        try:
            return await self._create(op)
        except RecordGoneError:
            if not parents:
                raise
            await self.ensure(path.rpartition("/")[0])
            return await self._create(op)

    async def _create(self, op: Create) -> Entry:
        (entry,) = await self._writer.write([op])
        assert entry is not None  # noqa: S101
        return entry

    def create_locked(
        self, path: str, data: bytes, *, record: object = None
    ) -> Coroutine[Any, Any, tuple[Entry, Lock] | None]:
        return self._locks.create(path, data, record)

    async def ensure(self, *paths: str) -> None:
        for path in paths:
            await self._ensure(path)

    async def _ensure(self, path: str) -> None:
        if not path:
            # The missing parent is the chroot.
            log.error("zookeeper_chroot_missing", chroot=self._chroot, detail="it was deleted; it is created again")
            self._make_chroot()
            return
        try:
            await self._writer.write([Create(path)])
        except RecordExistsError:
            return
        except RecordGoneError:
            await self._ensure(path.rpartition("/")[0])
            with suppress(RecordExistsError):
                await self._writer.write([Create(path)])

    async def put(self, path: str, data: bytes, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> Entry:
        (entry,) = await self._writer.write([Put(path, data, version)], under)
        assert entry is not None  # noqa: S101
        return entry

    async def delete(self, path: str, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> None:
        await self._writer.write([Delete(path, version)], under)

    async def delete_tree(self, path: str) -> None:
        for _ in range(10):  # a peer may create children meanwhile
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

    def commit(self, ops: Sequence[Op], *, under: Collection[Lock] = ()) -> Coroutine[Any, Any, list[Result]]:
        return self._locks.commit(ops, under)

    # -- locks and trees ----------------------------------------------------------------------------------------------

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
        return await self._locks.lock(path, timeout_s=timeout_s, identifier=identifier, ephemeral=ephemeral)

    def tree(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool] = lambda _path: True,
        may_lag: Callable[[str], bool] = lambda _path: False,
        keeps_data: bool = True,
    ) -> AbstractAsyncContextManager[Tree]:
        return self._tree(ZkTree(root, wants_data=wants_data, may_lag=may_lag, keeps_data=keeps_data))

    @asynccontextmanager
    async def _tree(self, tree: ZkTree) -> AsyncIterator[Tree]:
        self._forest.add(tree)
        try:
            yield tree
        finally:
            self._forest.remove(tree)
