"""Keys of ``driver: static``. Source: Nodepool 11, static driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt
from pydantic_core import PydanticCustomError

from nodelaunch.config.models import (
    TOP_LABELS,
    Model,
    OneOrMoreTexts,
    PoolConfig,
    Port,
    ProviderConfig,
    Reference,
    Seconds,
    Tenants,
    Text,
    Texts,
    Unique,
    allowed,
)
from nodelaunch.protocol.access import Allowed

SSH_TYPES = ("ssh", "network_cli")


def _keys(value: object) -> object:
    """Return the keys of one key, a list of keys, or a text with one key on each line."""
    if isinstance(value, str):
        return tuple(line.strip() for line in value.splitlines() if line.strip())
    return value


def _words(labels: tuple[str, ...]) -> tuple[str, ...]:
    for label in labels:
        if label.split() != [label]:
            raise PydanticCustomError(
                "label_with_spaces",
                "a label has no spaces; write several as a list: [{words}]",
                {"words": ", ".join(label.split())},
            )
    return labels


class StaticNode(Model):
    """Configured machine. Its identity is (name, username, connection-port), unique in the provider."""

    name: Text
    """Host name or address that users connect to."""
    labels: Annotated[OneOrMoreTexts, AfterValidator(_words)]
    username: Text = "zuul"
    connection_port: Port = 22
    connection_type: Text = "ssh"
    host_key: Annotated[tuple[Text, ...], BeforeValidator(_keys, json_schema_input_type=str | Texts)] = ()
    """Keys as ``<type> <base64>``. All of them must be among the scanned keys. Empty: any key is accepted."""
    host_key_checking: StrictBool = True
    timeout: Seconds = 5.0
    """Time limit for reaching the machine, including retries."""
    max_parallel_jobs: Annotated[StrictInt, Field(ge=1)] = 1
    """Slots: number of node records that offer the machine at the same time."""
    python_path: Text = "auto"
    shell_type: Text | None = None
    allowed_tenants: Tenants = None
    """Tenants whose requests may use the machine. Without the key: the tenants that may use the pool."""

    @property
    def identity(self) -> tuple[str, str, int]:
        return (self.name, self.username, self.connection_port)

    @property
    def is_ssh(self) -> bool:
        return self.connection_type in SSH_TYPES


class StaticPool(PoolConfig):
    nodes: tuple[StaticNode, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label for node in self.nodes for label in node.labels))

    @property
    def machine_tenants(self) -> Mapping[tuple[str, str | None, int], Allowed]:
        return {node.identity: allowed(node.allowed_tenants) for node in self.nodes if node.allowed_tenants}


def _identity_defaults() -> dict[str, object]:
    return {
        info.alias or name: info.default for name, info in StaticNode.model_fields.items() if not info.is_required()
    }


class StaticProvider(ProviderConfig):
    must_differ: ClassVar[tuple[Unique, ...]] = (
        *ProviderConfig.must_differ,
        Unique("machine", "pools[].nodes[]", ("name", "username", "connection-port"), defaults=_identity_defaults()),
    )
    must_exist: ClassVar[tuple[Reference, ...]] = (Reference("label", "pools[].nodes[].labels[]", TOP_LABELS),)
    old_names: ClassVar[Mapping[str, str]] = {"pools[].nodes[].ssh-port": "connection-port"}

    pools: tuple[StaticPool, ...] = ()
