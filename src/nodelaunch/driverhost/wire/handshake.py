"""The proof that both ends have the token, and the versions that an SDK offers. Pure except for random nonces.

Each end sends a nonce and an HMAC-SHA256 over its role and both nonces, with the token (64 ASCII characters) as the
key. So the wire carries neither the token nor a message that an attacker could replay.

"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, Literal

from nodelaunch.driverhost.wire import SPOKEN
from nodelaunch.driverhost.wire.messages import VersionRange
from nodelaunch.driverhost.wire.versions import choose_version

CONTRACT: Final = VersionRange(min=SPOKEN[0], max=SPOKEN[1])
"""Major versions of the contract that this package speaks, as a launcher and in `nodelaunch.sdk`."""
TOKEN_FD: Final = 3
"""Descriptor of the token in a driver's process; the driver reads it to its end and closes it."""
SOCKET_VARIABLE: Final = "NODELAUNCH_DRIVER_SOCKET"
"""Environment variable with the path of the socket to which the driver connects."""


def new_token() -> str:
    return secrets.token_hex(32)


def new_nonce() -> str:
    return secrets.token_hex(16)


def proof(token: str, role: Literal["launcher", "driver"], launcher_nonce: str, driver_nonce: str) -> str:
    """Return the proof of the end with *role* that it has *token*: 64 hexadecimal digits."""
    text = f"{role}:{launcher_nonce}:{driver_nonce}"
    return hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()


def is_proof(given: str, token: str, role: Literal["launcher", "driver"], nonces: tuple[str, str]) -> bool:
    """Return True if *given* is the proof of *role*; *nonces*: the launcher's and the driver's."""
    return hmac.compare_digest(given.encode(errors="replace"), proof(token, role, *nonces).encode())


def spoken_with(ours: VersionRange, kept: VersionRange, *, driver: str) -> VersionRange:
    """Return the versions that an SDK of range *ours* speaks for *driver*, which keeps the range *kept*.

    Raises: VersionMismatchError.
    """
    choose_version(ours, kept, driver=driver)
    return VersionRange(min=max(ours.min, kept.min), max=min(ours.max, kept.max))
