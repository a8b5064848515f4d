"""The token both ends prove to have, and the version of the contract they agree on. Pure but for the drawing of nonces.

Each end sends a nonce and an HMAC-SHA256, keyed with the token as it was handed over (64 ASCII characters), over its
role and both nonces. So neither the token nor anything that could be played back is on the wire.
What does *not* belong here: how the token gets to the driver (driverhost/process).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, Literal

from nodelaunch.driverhost.wire import SPOKEN
from nodelaunch.driverhost.wire.messages import VersionRange

CONTRACT: Final = VersionRange(min=SPOKEN[0], max=SPOKEN[1])
"""Major versions of the contract this package speaks, as a launcher and in `nodelaunch.sdk`."""
TOKEN_FD: Final = 3
"""Where a driver's process finds the token: to be read to its end and closed."""
SOCKET_VARIABLE: Final = "NODELAUNCH_DRIVER_SOCKET"
"""Names the socket to connect to."""


class VersionMismatchError(Exception):
    """There is no version that both speak; the message says which side to upgrade."""


def new_token() -> str:
    return secrets.token_hex(32)


def new_nonce() -> str:
    return secrets.token_hex(16)


def proof(token: str, role: Literal["launcher", "driver"], launcher_nonce: str, driver_nonce: str) -> str:
    """That whoever has *role* has *token*: 64 hexadecimal digits."""
    text = f"{role}:{launcher_nonce}:{driver_nonce}"
    return hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()


def is_proof(given: str, token: str, role: Literal["launcher", "driver"], nonces: tuple[str, str]) -> bool:
    """*nonces*: the launcher's and the driver's."""
    return hmac.compare_digest(given.encode(errors="replace"), proof(token, role, *nonces).encode())


def choose_version(ours: VersionRange, theirs: VersionRange, *, driver: str) -> int:
    """The highest version both a launcher (*ours*) and *driver* speak. Raises: VersionMismatchError."""
    best = min(ours.max, theirs.max)
    if best >= max(ours.min, theirs.min):
        return best
    who = "upgrade the driver" if theirs.max < ours.min else "upgrade nodelaunch"
    raise VersionMismatchError(
        f"driver {driver} speaks {_in_words(theirs)} of the driver contract, this nodelaunch {_in_words(ours)}: {who}"
    )


def spoken_with(ours: VersionRange, kept: VersionRange, *, driver: str) -> VersionRange:
    """What an SDK of range *ours* speaks for *driver*, which keeps *kept*. Raises: VersionMismatchError."""
    choose_version(ours, kept, driver=driver)
    return VersionRange(min=max(ours.min, kept.min), max=min(ours.max, kept.max))


def _in_words(versions: VersionRange) -> str:
    return f"version {versions.min}" if versions.min == versions.max else f"versions {versions.min} to {versions.max}"
