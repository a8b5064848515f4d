"""The cloud's objects as plain data, which client.py makes from openstacksdk's objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GONE = frozenset({"DELETED", "SOFT_DELETED"})
"""Statuses of a server that is listed although it is gone."""


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a server. ``network`` is the network's name."""

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
    """The flavor if the cloud embeds it; otherwise only ``flavor_id`` is set."""
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
    """ISO 8601, so the order of texts is the order of times."""


@dataclass(frozen=True, slots=True)
class Network:
    id: str
    name: str
    is_external: bool = False
    """True if its addresses can be reached from outside."""
    is_floating_source: bool = False


@dataclass(frozen=True, slots=True)
class Networks:
    """All networks, and their use according to ``clouds.yaml``."""

    all: Sequence[Network] = ()
    nat_destination: str | None = None
    """Configured network that floating IPs lead to, by name or id."""
    default: str | None = None
    has_floating_ips: bool = True
    is_private: bool = False
    """True if servers are reached by their fixed addresses."""
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
    """True if Nova created the port or uses it."""


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
    """Limit and use of one resource. A limit of None: no limit."""

    limit: float | None
    used: float = 0
