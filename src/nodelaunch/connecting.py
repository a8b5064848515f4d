"""Builds the store that a configuration names, for the launcher itself and for other processes.

Don't import the other parts of a launcher here: commands that only read records start without them, and import only
the store that the configuration names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nodelaunch.config.file import ALL_FILES, STORE_FILES, load_store_config, position_of
from nodelaunch.config.file import check_files as find_unreadable
from nodelaunch.config.localfiles import store_problem
from nodelaunch.config.models import Config, StoreConfig, ZooKeeperAuth
from nodelaunch.errors import ConfigError, ConfigProblem, StoreError, StoreUnavailableError
from nodelaunch.protocol.store import Store

if TYPE_CHECKING:
    from nodelaunch.store.zookeeper.dial import ClientIdentity

CONNECT_TIMEOUT_S = 15.0
"""Time that a client waits for its first session with the store."""


def check_files(
    config: StoreConfig, path: str | os.PathLike[str], *, secure: str | os.PathLike[str] | None = None
) -> Sequence[ConfigProblem]:
    """Return problems with the files that the configuration in *path* and *secure* names, without connecting.

    If *config* has only the store part, the other files are not checked: only the launcher has to be able to read them.
    """
    if not all(map(_is_readable, _files_of(config))):
        keys = ALL_FILES if isinstance(config, Config) else STORE_FILES
        if unreadable := find_unreadable(path, secure=secure, keys=keys):
            return unreadable
    if isinstance(config, Config) and (problem := store_problem(config, path)) is not None:
        return [problem]
    if config.zookeeper_tls is None:
        return []
    from nodelaunch.store.zookeeper.store import TlsFiles

    tls = config.zookeeper_tls
    try:
        TlsFiles(tls.cert, tls.key, tls.ca).context()
    except (ValueError, OSError) as error:
        line, column = position_of(path, ("zookeeper-tls",), secure=secure)
        return [ConfigProblem(os.fspath(path), line, column, f"zookeeper-tls: {error}")]
    return []


def _files_of(config: StoreConfig) -> Iterator[str]:
    """Yield the files that *config* names, without their places: finding them takes a second, slow read."""
    if (tls := config.zookeeper_tls) is not None:
        yield from (tls.cert, tls.key, tls.ca)
    if (auth := config.zookeeper_auth) is not None and auth.password_file is not None:
        yield auth.password_file
    if isinstance(config, Config) and config.webapp.token_file is not None:
        yield config.webapp.token_file


def _is_readable(file: str) -> bool:
    try:
        Path(file).read_bytes()
    except OSError:
        return False
    return True


def build_store(config: StoreConfig, *, makes_chroot: bool = True) -> Store:
    """Return the store that the configuration names: ZooKeeper, or the embedded store."""
    if not config.zookeeper_servers:
        from nodelaunch.store.embedded.store import EmbeddedStore

        return EmbeddedStore(config.embedded_store.path)
    from nodelaunch.store.zookeeper.store import TlsFiles, ZooKeeperStore
    from nodelaunch.store.zookeeper.wire import Acl

    tls = config.zookeeper_tls
    return ZooKeeperStore(
        server_addresses(config),
        chroot=config.chroot,
        tls=TlsFiles(tls.cert, tls.key, tls.ca, tls.check_host_name) if tls else None,
        identity=_identity(config.zookeeper_auth),
        acls=[Acl(entry.scheme, entry.id, entry.permissions) for entry in config.zookeeper_acl],
        session_timeout_s=config.zookeeper_timeout,
        makes_chroot=makes_chroot,
    )


def _identity(auth: ZooKeeperAuth | None) -> ClientIdentity | None:
    """Return the identity in `zookeeper-auth`. Raises: StoreError if its file can't be used."""
    if auth is None:
        return None
    from nodelaunch.store.zookeeper.dial import ClientIdentity

    if auth.password_file is None:
        assert auth.password is not None  # noqa: S101  the model sees to it
        password = auth.password.get_secret_value()
    else:
        try:
            password = Path(auth.password_file).read_text("utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise StoreError(auth.password_file, f"the password-file can't be read: {reason}") from None
        if not password:
            raise StoreError(auth.password_file, "the password-file is empty; its first line has to be the password")
    return ClientIdentity("digest", f"{auth.user}:{password}".encode())


def server_addresses(config: StoreConfig) -> list[tuple[str, int]]:
    """Return host and port of each ZooKeeper server."""
    return [(server.host, server.port) for server in config.zookeeper_servers]


@runtime_checkable
class _SaysTrouble(Protocol):
    @property
    def trouble(self) -> str | None: ...


def trouble_of(store: Store) -> str | None:
    """Return the reason why *store* can't be reached now, if it is known."""
    return store.trouble if isinstance(store, _SaysTrouble) else None


def no_session(store: Store, after_s: float) -> StoreUnavailableError:
    """Return the error that *store* gave no session within *after_s*, with the reason if known."""
    trouble = trouble_of(store)
    return StoreUnavailableError(detail=f"no session within {after_s:g} s" + (f"; {trouble}" if trouble else ""))


def build_client_store(config: StoreConfig) -> Store:
    """Return the store for another process: an embedded store is reached through the running launcher's socket."""
    if config.zookeeper_servers:
        return build_store(config, makes_chroot=False)
    from nodelaunch.store.embedded.socket import SocketStore

    return SocketStore(socket_path(config))


@asynccontextmanager
async def client_store(
    path: str | os.PathLike[str], *, secure: str | os.PathLike[str] | None = None, timeout_s: float = CONNECT_TIMEOUT_S
) -> AsyncIterator[Store]:
    """Connect within *timeout_s* to the store of a launcher with the configuration in *path* and *secure*.

    Only the store part of the configuration has to be valid. Raises: ConfigError, StoreUnavailableError.
    """
    config = load_store_config(path, secure=secure)
    if problems := check_files(config, path, secure=secure):
        raise ConfigError(problems)
    store = build_client_store(config)
    try:
        async with asyncio.timeout(timeout_s):
            await store.__aenter__()
    except TimeoutError:
        raise no_session(store, timeout_s) from None
    try:
        yield store
    finally:
        await store.__aexit__(None, None, None)


def socket_path(config: StoreConfig) -> str:
    """Return the socket on which a launcher with an embedded store listens for other processes of this machine."""
    return f"{config.embedded_store.path}.sock"
