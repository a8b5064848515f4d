"""The options of ``driver: loopback``. Editors and `nodelaunch driver info` show their docstrings."""

from __future__ import annotations

import ipaddress
from typing import Annotated, ClassVar

from nodelaunch.config.models import (
    TOP_LABELS,
    LaunchingProviderConfig,
    LocalPath,
    PoolConfig,
    PoolLabel,
    Reference,
    Text,
    Unique,
)
from pydantic import AfterValidator, Field, StrictInt


def _loopback(text: str) -> str:
    network = ipaddress.IPv4Network(text)
    if not network.is_loopback:
        raise ValueError("has to be a part of 127.0.0.0/8")
    return text


class LoopbackLabel(PoolLabel):
    username: Text | None = None
    """User that jobs log in as. The launcher's own user can always log in."""


class LoopbackPool(PoolConfig):
    labels: tuple[LoopbackLabel, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)


class LoopbackProvider(LaunchingProviderConfig):
    must_differ: ClassVar[tuple[Unique, ...]] = (
        *LaunchingProviderConfig.must_differ,
        Unique("label", "labels[]", scope="pools[]"),
    )
    must_exist: ClassVar[tuple[Reference, ...]] = (Reference("label", "pools[].labels[].name", TOP_LABELS),)

    pools: tuple[LoopbackPool, ...] = ()
    state_dir: LocalPath
    """Folder for the machines, with a directory for each machine."""
    network: Annotated[Text, AfterValidator(_loopback)] = "127.64.0.0/24"
    """Addresses for machines."""
    port: Annotated[StrictInt, Field(ge=1024, le=65535)] = 2222
    """Port on which every machine listens, at its own address."""
    max_machines: Annotated[StrictInt, Field(ge=0)] = 20
    """Limit of machines in state-dir, including those of other providers."""
    authorized_keys: LocalPath | None = None
    """File with public keys that may log in, in addition to those in the user's own authorized_keys."""
    sshd: LocalPath = Field(default="/usr/sbin/sshd", validate_default=True)
    """Path of the sshd program."""
