"""Where an instance's metadata is: in its name, which with the ids of its controller and pool is all GARM has carried.

A name is ``nl-NODE-ATTEMPT-PROVIDER-POOL``. It can be a host's: lower case letters, digits and hyphens, 63 characters
at most. In a part every other character, and ``x``, is written as ``x`` and two hexadecimal digits for each byte.
Pool and controller ids are UUIDs derived from names, so that any launcher with the same configuration has the same.
What does *not* belong here: asking a provider.
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
"""Characters. Source: RFC 1035, labels."""
_PLAIN: Final = frozenset((string.ascii_lowercase + string.digits).replace("x", ""))
_NAMESPACE: Final = uuid.UUID("6d1c7f0e-3f0b-5c8a-9c56-6b0a4f2f8d11")


def controller_id(provider: str) -> str:
    """Of the launchers that have a provider of this name."""
    return str(uuid.uuid5(_NAMESPACE, provider))


def pool_id(controller: str, pool: str, label: str) -> str:
    """What a GARM pool is: machines of one image, flavor and extra specs. So it is one label of one pool here."""
    return str(uuid.uuid5(uuid.UUID(controller), f"{pool}/{label}"))


def instance_name(spec: InstanceSpec) -> str:
    """It may be longer than `MAX_NAME`."""
    metadata = spec.metadata
    parts = (metadata.get(METADATA_NODE_ID, spec.node_id), str(spec.attempt))
    whose = (metadata.get(METADATA_PROVIDER, ""), metadata.get(METADATA_POOL, spec.pool))
    return "-".join((PREFIX, *(_written(part) for part in (*parts, *whose))))


def metadata_of(name: str) -> Mapping[str, str]:
    """What `instance_name` was given; nothing if it did not make this name."""
    parts = name.split("-")
    if len(parts) != 5 or parts[0] != PREFIX:
        return {}
    read = [_read(part) for part in parts[1:]]
    if None in read:
        return {}
    node_id, _attempt, provider, pool = read
    return {METADATA_NODE_ID: str(node_id), METADATA_POOL: str(pool), METADATA_PROVIDER: str(provider)}


def external_id(provider_id: str, pool: str) -> ExternalId:
    """*pool*: its id. Commands for an instance need it, and the label it stands for may be gone by then."""
    return ExternalId(f"{provider_id}@{pool}")


def split(external: ExternalId) -> tuple[str, str] | None:
    """The provider's id of the instance, and the pool's; None: `external_id` did not make it."""
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
