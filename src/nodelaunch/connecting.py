"""The store that a configuration names: of the launcher itself, and for other processes.

What does *not* belong here: what else a launcher is made of (launcher.py): commands that only look at records start
without that, and import only the store that is named.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nodelaunch.config.file import ALL_FILES, STORE_FILES, load_store_config, position_of
from nodelaunch.config.file import check_files as find_unreadable
from nodelaunch.config.models import Config, StoreConfig, ZooKeeperAuth
from nodelaunch.errors import ConfigError, ConfigProblem, StoreError, StoreUnavailableError
from nodelaunch.protocol.store import Store

if TYPE_CHECKING:
    from nodelaunch.store.zookeeper.dial import ClientIdentity

CONNECT_TIMEOUT_S = 15.0
"""How long a client waits for its first session with the store."""


def check_files(
    config: StoreConfig, path: str | os.PathLike[str], *, secure: str | os.PathLike[str] | None = None
) -> Sequence[ConfigProblem]:
    """What is wrong with the files the configuration in *path* and *secure* names; nothing is connected to.

    Where *config* is only what is about the store, the other files are a launcher's, which may be ours to read or not.
    """
    if not all(map(_is_readable, _files_of(config))):
        keys = ALL_FILES if isinstance(config, Config) else STORE_FILES
        if unreadable := find_unreadable(path, secure=secure, keys=keys):
            return unreadable
    if isinstance(config, Config):
        from nodelaunch.config.localfiles import store_problem

        if (problem := store_problem(config, path)) is not None:
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
    """The files that it names. To find their places the configuration is read once more, which takes long."""
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
    """The store the configuration names: ZooKeeper, or the embedded one."""
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
    """What `zookeeper-auth` says. Raises: StoreError where its file can't be used."""
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
    """Host and port of each ZooKeeper server."""
    return [(server.host, server.port) for server in config.zookeeper_servers]


def trouble_of(store: Store) -> str | None:
    """Why *store* can't be reached just now, as far as is known."""
    from nodelaunch.store.zookeeper.store import ZooKeeperStore

    return store.trouble if isinstance(store, ZooKeeperStore) else None


def no_session(store: Store, after_s: float) -> StoreUnavailableError:
    """That *store* gave no session within *after_s*, and why, as far as is known."""
    trouble = trouble_of(store)
    return StoreUnavailableError(detail=f"no session within {after_s:g} s" + (f"; {trouble}" if trouble else ""))


def build_client_store(config: StoreConfig) -> Store:
    """The same store from another process: where it is embedded, through the running launcher's socket."""
    if config.zookeeper_servers:
        return build_store(config, makes_chroot=False)
    from nodelaunch.store.embedded.socket import SocketStore

    return SocketStore(socket_path(config))


@asynccontextmanager
async def client_store(
    path: str | os.PathLike[str], *, secure: str | os.PathLike[str] | None = None, timeout_s: float = CONNECT_TIMEOUT_S
) -> AsyncIterator[Store]:
    """The store that a launcher with the configuration in *path* and *secure* uses, connected within *timeout_s*.

    Only what the configuration says of the store has to be right. Raises: ConfigError, StoreUnavailableError.
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
    """Where a launcher with an embedded store listens for other processes of this machine."""
    return f"{config.embedded_store.path}.sock"
