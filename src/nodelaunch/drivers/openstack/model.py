"""What the driver knows of a cloud's things: plain data, made from openstacksdk's objects by client.py.

What does *not* belong here: calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GONE = frozenset({"DELETED", "SOFT_DELETED"})
"""Statuses of a server that is listed and yet gone."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a server. ``network`` is the name."""

    network: str
    ip: str
    version: int = 4
    is_floating: bool = False
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Flavor:
    id: str
    name: str
    vcpus: int
    ram: int
    """MiB."""


@dataclass(frozen=True, slots=True)
class Server:
    id: str
    status: str
    name: str = ""
    task_state: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    addresses: Sequence[Address] = ()
    access_ipv4: str | None = None
    access_ipv6: str | None = None
    zone: str | None = None
    host_id: str | None = None
    flavor: Flavor | None = None
    """Where the cloud embeds it; else ``flavor_id`` says which."""
    flavor_id: str | None = None
    volume_ids: Sequence[str] = ()
    fault: str = ""

    @property
    def is_gone(self) -> bool:
        return self.status in GONE

    @property
    def is_being_deleted(self) -> bool:
        return self.task_state in ("deleting", "soft-deleting")


@dataclass(frozen=True, slots=True)
class Image:
    id: str
    name: str
    created_at: str = ""
    """ISO 8601, so that text order is time's."""


@dataclass(frozen=True, slots=True)
class Network:
    id: str
    name: str
    is_external: bool = False
    """Its addresses are reached from outside."""
    is_floating_source: bool = False


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks there are, and what ``clouds.yaml`` says of their use."""

    all: Sequence[Network] = ()
    nat_destination: str | None = None
    """Network floating IPs lead to, by name or id, where it is configured."""
    default: str | None = None
    has_floating_ips: bool = True
    is_private: bool = False
    """Whether we reach servers by their fixed addresses."""
    is_ipv4_forced: bool = False

    def find(self, name_or_id: str) -> Network | None:
        by_id = (network for network in self.all if network.id == name_or_id)
        return next(by_id, None) or next((network for network in self.all if network.name == name_or_id), None)

    def is_external(self, name: str) -> bool:
        return any(network.is_external for network in self.all if network.name == name)


@dataclass(frozen=True, slots=True)
class Port:
    id: str
    device_id: str
    network_id: str
    status: str
    fixed_ips: Sequence[str] = ()
    is_compute: bool = False
    """Nova made it, or has it in use."""


@dataclass(frozen=True, slots=True)
class FloatingIp:
    id: str
    ip: str
    port_id: str | None
    fixed_ip: str | None
    description: str


@dataclass(frozen=True, slots=True)
class Volume:
    id: str
    size: int
    """GB."""
    status: str
    metadata: Mapping[str, str]
    server_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """What may be used of a thing, and how much of it is; None: no limit."""

    limit: float | None
    used: float = 0
