"""Key exchanges and logins at SSH servers, and new host keys. This is the only module that imports asyncssh at the top.

asyncssh takes 15 MiB and a fifth of a second, so the launcher imports this module only for the first scan or the first
new key. sshscan.py waits for servers, retries, and sets deadlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nodelaunch.errors import KeyScanError
from nodelaunch.network import barecontainer

barecontainer.name_user()
with barecontainer.no_compiler_without_temporary_files():
    import asyncssh

LOGIN_FAILURES: Final = (OSError, asyncssh.Error)
"""Errors of `log_in` after which a retry may succeed."""
_ANY_ALGORITHM: Final = "+*"  # weak ones last: nothing secret is sent, and old network devices offer nothing else
_OPTIONS: Final = asyncssh.SSHClientConnectionOptions(
    config=None, client_keys=None, known_hosts=None, agent_path=None, gss_host=None, x509_trusted_certs=None,
    encryption_algs=_ANY_ALGORITHM, mac_algs=_ANY_ALGORITHM, login_timeout=0,
)  # fmt: skip


class SshClient(asyncssh.SSHClient):
    """Records if the server of its connection sent its identification."""

    def __init__(self) -> None:
        self._connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn

    @property
    def was_greeted(self) -> bool:
        return self._connection is not None and self._connection.get_extra_info("server_version") is not None


async def host_key(host: str, port: int, algorithms: Sequence[str], client: SshClient) -> str:
    """Return ``<type> <base64>`` of the key that the server proves to have, restricted to *algorithms*.

    Raises: any error of asyncssh.
    """
    key = await asyncssh.get_server_host_key(
        host,
        port,
        config=None,
        kex_algs=_ANY_ALGORITHM,
        server_host_key_algs=algorithms,
        options=asyncssh.SSHClientConnectionOptions(_OPTIONS, client_factory=lambda: client),
    )
    if key is None:
        raise asyncssh.KeyExchangeFailed("key exchange without a host key")
    return key.export_public_key("openssh").decode("ascii").strip()


def login_options(
    username: str, key_file: str, host_keys: Sequence[str], *, timeout_s: float
) -> asyncssh.SSHClientConnectionOptions:
    """Return options to log in as *username* with the private key in *key_file*, at a server that has one of
    *host_keys*.

    *timeout_s* is for one login. Raises: KeyScanError when the file can't be read as a key without a passphrase.
    """
    try:
        key = asyncssh.read_private_key(key_file)
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise KeyScanError(f"login key {key_file} can't be used: {error}") from None
    trusted = [asyncssh.import_public_key(each) for each in host_keys]
    return asyncssh.SSHClientConnectionOptions(
        _OPTIONS, username=username, client_keys=[key], known_hosts=(trusted, [], []), login_timeout=timeout_s
    )


async def log_in(host: str, port: int, options: asyncssh.SSHClientConnectionOptions) -> None:
    """Log in once and log out. Raises: one of `LOGIN_FAILURES`."""
    async with await asyncssh.connect(host, port, options=options):
        pass


def new_host_key() -> tuple[str, str]:
    """Return a new Ed25519 key: the private key in OpenSSH's file format, and ``<type> <base64>`` of the public key."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    public = key.export_public_key("openssh").decode("ascii")
    return key.export_private_key("openssh").decode("ascii"), " ".join(public.split()[:2])
