"""SSH host keys as records have them, ``<type> <base64>`` each: compared, shown, and how far they can be trusted.

What does *not* belong here: where keys come from (the engine's keyscan.py, drivers).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

SSH_CONNECTION_TYPES: Final = frozenset({"ssh", "network_cli"})
"""Connection types that speak SSH, so that there are host keys."""
ASSURANCE: Final = "host_key_assurance"
"""Key of a node's ``node_properties`` under which an `Assurance` stands. It is there only where the driver gave the
machine its keys; of other nodes the record says nothing."""


class Assurance(StrEnum):
    """How far the host keys in a node's record can be trusted, where the machine was given them."""

    VERIFIED = "verified"
    """They were found on the machine."""
    UNSEEN = "unseen"
    """Nobody looked: host key checking is off."""


def without_comment(key: str) -> str:
    """``<type> <base64>`` of a public key line."""
    return " ".join(key.split()[:2])


def mismatch(expected: Iterable[str], found: Iterable[str]) -> str | None:
    """What is wrong where not all *expected* keys are among those *found*; None: they are. Comments don't count."""
    has = {without_comment(key) for key in found}
    missing = [key for key in map(without_comment, expected) if key not in has]
    return f"expected {fingerprints(missing)}, found {fingerprints(sorted(has))}" if missing else None


def fingerprints(keys: Sequence[str]) -> str:
    """Type and SHA256 fingerprint of each, as OpenSSH prints them; what is no key stands as it is."""
    return ", ".join(map(_fingerprint, keys)) or "none"


def _fingerprint(key: str) -> str:
    kind, _, blob = key.partition(" ")
    try:
        digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
    except ValueError:
        return key
    return f"{kind} SHA256:{base64.b64encode(digest).decode('ascii').rstrip('=')}"
