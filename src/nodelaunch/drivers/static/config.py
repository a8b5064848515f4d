"""Keys of ``driver: static``. Source: Nodepool 11, static driver."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from nodelaunch.config.models import Model, OneOrMoreTexts, PoolConfig, Port, ProviderConfig, Seconds, Text

SSH_TYPES = ("ssh", "network_cli")


def _keys(value: object) -> object:
    """One key, a list of them, or a text with a key a line."""
    if isinstance(value, str):
        return tuple(line.strip() for line in value.splitlines() if line.strip())
    return tuple(value) if isinstance(value, list) else value


class StaticNode(Model):
    """One machine. Its identity is (name, username, connection-port), unique in the provider."""

    name: Text
    """Host name or address; users connect to it."""
    labels: OneOrMoreTexts
    username: Text = "zuul"
    connection_port: Port = 22
    connection_type: Text = "ssh"
    host_key: Annotated[tuple[Text, ...], BeforeValidator(_keys)] = ()
    """``<type> <base64>`` each; all of them must be among the scanned ones. Empty: any key will do."""
    host_key_checking: StrictBool = True
    timeout: Seconds = 5
    """For reaching the machine, retries included."""
    max_parallel_jobs: Annotated[StrictInt, Field(ge=1)] = 1
    """Slots: node records the machine is offered as at the same time."""
    python_path: Text = "auto"
    shell_type: Text | None = None

    @model_validator(mode="after")
    def _labels_are_words(self) -> StaticNode:
        for label in self.labels:
            if label.split() != [label]:
                raise PydanticCustomError(
                    "label_with_spaces",
                    "label '{label}' has spaces in it; write several labels as a list: [{words}]",
                    {"label": label, "words": ", ".join(label.split())},
                )
        return self

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
    def label_places(self) -> tuple[tuple[tuple[str | int, ...], str], ...]:
        return tuple((("nodes", i, "labels"), label) for i, node in enumerate(self.nodes) for label in node.labels)


class StaticProvider(ProviderConfig):
    pools: tuple[StaticPool, ...] = ()
