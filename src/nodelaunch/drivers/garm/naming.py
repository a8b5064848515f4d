"""Encodes an instance's metadata in its name: GARM carries nothing else except the ids of controller and pool.

A name is ``nl-NODE-ATTEMPT-PROVIDER-POOL``. It is valid as a host name: lower case letters, digits and hyphens, 63
characters at most. In a part, ``x`` and every character outside ``a-z0-9`` is written as ``x`` and two hexadecimal
digits for each byte. Ids of pools and controllers are UUIDs derived from names, so all launchers with the same
configuration compute the same ids.
"""

from __future__ import annotations

import re
import string
import uuid
from collections.abc import Mapping
from typing import Final

from nodelaunch.protocol.driver import METADATA_NODE_ID, METADATA_POOL, METADATA_PROVIDER, ExternalId, InstanceSpec

PREFIX: Final = "nl"
MAX_NAME: Final = 63
"""Longest name in characters. Source: RFC 1035, labels."""
_PLAIN: Final = frozenset((string.ascii_lowercase + string.digits).replace("x", ""))
_NAMESPACE: Final = uuid.UUID("6d1c7f0e-3f0b-5c8a-9c56-6b0a4f2f8d11")


def controller_id(provider: str) -> str:
    """Return the controller id shared by all launchers that have a provider of this name."""
    return str(uuid.uuid5(_NAMESPACE, provider))


def pool_id(controller: str, pool: str, label: str) -> str:
    """Return the id of a GARM pool: machines of one image, flavor and extra specs, here one label of one pool."""
    return str(uuid.uuid5(uuid.UUID(controller), f"{pool}/{label}"))


def instance_name(spec: InstanceSpec) -> str:
    """Return the name for an instance, which may be longer than `MAX_NAME`."""
    metadata = spec.metadata
    parts = (metadata.get(METADATA_NODE_ID, spec.node_id), str(spec.attempt))
    whose = (metadata.get(METADATA_PROVIDER, ""), metadata.get(METADATA_POOL, spec.pool))
    return "-".join((PREFIX, *(_written(part) for part in (*parts, *whose))))


def metadata_of(name: str) -> Mapping[str, str]:
    """Return the metadata that `instance_name` encoded, or an empty mapping for other names."""
    parts = name.split("-")
    if len(parts) != 5 or parts[0] != PREFIX:
        return {}
    read = [_read(part) for part in parts[1:]]
    if None in read:
        return {}
    node_id, _attempt, provider, pool = read
    return {METADATA_NODE_ID: str(node_id), METADATA_POOL: str(pool), METADATA_PROVIDER: str(provider)}


def external_id(provider_id: str, pool: str) -> ExternalId:
    """Return the external id of an instance. *pool* is the pool's id: commands need it even after the label is
    removed."""
    return ExternalId(f"{provider_id}@{pool}")


def split(external: ExternalId) -> tuple[str, str] | None:
    """Return the provider's id of the instance and the id of its pool, or None if `external_id` did not make
    *external*."""
    provider_id, _, pool = external.rpartition("@")
    return (provider_id, pool) if provider_id else None


def _written(part: str) -> str:
    return "".join(
        letter if letter in _PLAIN else "".join(f"x{byte:02x}" for byte in letter.encode()) for letter in part
    )


def _read(part: str) -> str | None:
    if not re.fullmatch(r"([a-wyz0-9]|x[0-9a-f]{2})*", part):
        return None
    encoded = re.sub(r"x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), part)
    try:
        return encoded.encode("latin-1").decode()
    except UnicodeDecodeError:
        return None
