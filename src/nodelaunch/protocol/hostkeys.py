"""SSH host keys as records have them, ``<type> <base64>`` each: compared, shown, and how far they can be trusted."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

SSH_CONNECTION_TYPES: Final = frozenset({"ssh", "network_cli"})
"""Connection types that use SSH, and so host keys."""
ASSURANCE: Final = "host_key_assurance"
"""Key of a node's ``node_properties`` that holds an `Assurance`. It is present only if the driver gave the machine its
keys; the records of other nodes do not have it."""


class Assurance(StrEnum):
    """How far the host keys in a node's record can be trusted, if the machine was given them."""

    VERIFIED = "verified"
    """The keys were found on the machine."""
    UNSEEN = "unseen"
    """The keys were not checked: host key checking is off."""


def without_comment(key: str) -> str:
    """Return ``<type> <base64>`` of a public key line."""
    return " ".join(key.split()[:2])


def mismatch(expected: Iterable[str], found: Iterable[str]) -> str | None:
    """Return an error text if not all *expected* keys are among those *found*; None: they are. Comments don't count."""
    has = {without_comment(key) for key in found}
    missing = [key for key in map(without_comment, expected) if key not in has]
    return f"expected {fingerprints(missing)}, found {fingerprints(sorted(has))}" if missing else None


def fingerprints(keys: Sequence[str]) -> str:
    """Return type and SHA256 fingerprint of each key, as OpenSSH prints them; an invalid key is shown as it is."""
    return ", ".join(map(_fingerprint, keys)) or "none"


def _fingerprint(key: str) -> str:
    kind, _, blob = key.partition(" ")
    try:
        digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
    except ValueError:
        return key
    return f"{kind} SHA256:{base64.b64encode(digest).decode('ascii').rstrip('=')}"
