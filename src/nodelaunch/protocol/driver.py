"""The port to a cloud: what the engine asks of a driver, and nothing more.

A driver knows its cloud. It knows no store, no request, no retry, no record: the engine owns all of these. The rules
every driver keeps are numbered; each number is a check in ``nodelaunch.conformance``.

==== =================================================================================================================
D1   ``create_instance`` returns as soon as the cloud gave an id; it does not wait for the machine.
D2   ``spec.metadata`` is put on every resource, in the creating call, and comes back unchanged from
     ``list_instances``.
D3   If a create fails or is cancelled it leaves nothing, or only what ``list_instances`` shows.
D4   ``wait_until_active`` may be asked again, also by another process, for the same id; the caller sets the deadline.
D5   ``delete_instance`` is asked twice without complaint, and returns only when the instance is gone.
D6   ``list_instances`` shows everything the credentials can see, ours or not; quota is counted from it.
D7   Only `DriverError` subclasses are raised; a cloud's message text is read nowhere but in the driver.
D8   A driver can be rebuilt at any time from its configuration, its cloud, and the ids our records name.
D9   Calls run concurrently and never block the event loop.
D14  One that is `SupportsFencing` refuses the calls of a launcher from which another took the node over.
==== =================================================================================================================
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NewType, Protocol, runtime_checkable

from nodelaunch.errors import ErrorKind
from nodelaunch.protocol.cluster import Cluster
from nodelaunch.protocol.quota import NO_LIMITS, Limits, Usage

ExternalId = NewType("ExternalId", str)
"""A cloud's own name of an instance."""

METADATA_NODE_ID = "nodepool_node_id"
METADATA_POOL = "nodepool_pool_name"
METADATA_PROVIDER = "nodepool_provider_name"
"""Keys of the metadata on every instance; leak detection and quota go by them. Source: Nodepool 11."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Orders the calls that change a cloud for one node: a call is stale when its ``number`` is lower than that of
    another with the same ``node``. Fences of different nodes have no order."""

    node: str
    """The node's id, and when its record was made: ids repeat if a store was wiped, or restored from a copy. Compare it
    as a whole."""
    number: int
    """Greater for each later holder of the node's lock, the same for all calls of one holder."""


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """The instance to create. ``name`` and ``metadata`` are final; ``request`` feeds an operator's own templates."""

    node_id: str
    name: str
    pool: str
    label: str
    metadata: Mapping[str, str]
    attempt: int = 1
    zone: str | None = None
    """The zone that the node set has to share; None: the driver chooses."""
    image_external_id: str | None = None
    """Cloud image to boot if the label names a diskimage that a builder uploads; otherwise the driver knows the
    image."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the node request: id, labels, requestor, requestor_data, relative_priority, event_id, created_time,
    tenant_name."""
    fence: Fence | None = None
    """For drivers that are `SupportsFencing`; None: the call is not to be refused as stale."""


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in to one instance. It is recorded as it is, None included."""

    username: str | None
    connection_type: str | None
    connection_port: Any
    shell_type: str | None
    python_path: str | None


@dataclass(frozen=True, slots=True)
class Instance:
    """The cloud's own object. Addresses are None until known; ``resources`` None when the cloud doesn't say."""

    external_id: ExternalId
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_active: bool = False
    interface_ip: str | None = None
    """The address that a user connects to."""
    public_ipv4: str | None = None
    private_ipv4: str | None = None
    public_ipv6: str | None = None
    cloud: str | None = None
    region: str | None = None
    zone: str | None = None
    host_id: str | None = None
    hostname: str | None = None
    resources: Usage | None = None
    connection_port: Any = None
    """Overrides the label's: an int, or an object with credentials as Kubernetes' drivers have it."""
    node_properties: Mapping[str, Any] = field(default_factory=dict)
    login: Login | None = None
    """Overrides the label's, where instances of one label differ."""
    host_keys: Sequence[str] | None = None
    """``<type> <base64>`` each, if the driver knows them; overrides the keys that the engine scanned."""
    expected_host_keys: Sequence[str] | None = None
    """``<type> <base64>`` each, if the driver gave the machine its keys: the engine checks that the machine has them,
    and records only these, with an `Assurance`. A machine without them fails its launch."""
    attributes: Mapping[str, Any] | None = None
    """Attributes of the instance; the pool's ``node-attributes`` override them."""
    slot: int | None = None
    """The slot of a shared machine, if it has several."""
    driver_data: Any = None
    """The driver's own note in the record; opaque to all other code."""


@dataclass(frozen=True, slots=True)
class LabelTraits:
    """The configuration of the nodes that one pool makes for one label; recorded before the launch."""

    image_id: str | None = None
    """The record's name for the image; for a diskimage the engine writes the path of the upload instead."""
    diskimage: str | None = None
    """Name of the diskimage whose newest upload is booted, if the image is one."""
    username: str | None = None
    connection_type: str | None = "ssh"
    connection_port: Any = 22
    shell_type: str | None = None
    python_path: str | None = "auto"
    host_key_checking: bool = True
    settle_s: float = 0.0
    """Seconds that host keys have to stay the same before they are believed; 0: they are scanned once."""
    probe_key: str | None = None
    """File of a private key: the machine counts as ready once ``username`` can log in with it. None: no login
    is tried."""
    console_log: bool = False


class Driver(Protocol):
    """One provider's cloud. All calls are on the event loop, concurrently; deadlines are the caller's."""

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        """Return the traits of *label* in *pool* without asking the cloud."""

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        """Request an instance. Raises: QuotaExceededError, InsufficientCapacityError, LaunchFailedError,
        LabelUnusableError, ProviderUnavailableError; ``external_id`` is set if an instance may have been left."""

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        """Wait until the instance runs and has its addresses. Raises the errors of `create_instance`, and
        InstanceNotFoundError when it is gone."""

    async def delete_instance(self, external_id: ExternalId) -> None:
        """Delete the instance, and wait until it is gone. An instance that does not exist is gone."""

    def list_instances(self) -> AsyncIterator[Instance]:
        """Yield every instance that these credentials can see."""

    async def quota_limits(self) -> Limits:
        """Return the cloud's limits for these credentials."""

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        """Return the usage of one node of *label* in *pool*. Raises LabelUnusableError."""

    async def label_ready(self, pool: str, label: str) -> bool:
        """Return True if the cloud has what the label needs, for example its image. False: the pool declines it for
        now."""

    async def aclose(self) -> None:
        """Close connections; instances stay."""


@runtime_checkable
class ScansHostKeys(Protocol):
    """A driver that knows its instances' SSH host keys without the network."""

    async def host_keys(self, external_id: ExternalId) -> Sequence[str]:
        """Return ``<type> <base64>`` of each key."""


@runtime_checkable
class SupportsConsoleLog(Protocol):
    async def console_log(self, external_id: ExternalId) -> str | None:
        """Return the tail of the console, for the operator's log after a failed launch."""


@runtime_checkable
class SupportsFencing(Protocol):
    """A driver that stores the highest fence of each node, in the same step as the change in its cloud, and for all
    processes with the same configuration. It refuses stale calls with `StaleFenceError`: a create by the fence of its
    spec, and the calls below. A call without a fence is never stale."""

    async def raise_fence(self, fence: Fence) -> None:
        """Make every call with a lower fence stale from the return of this call on. The engine calls it before it looks
        for, or continues with, an instance of an earlier holder of the node's lock."""

    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        """Delete like `delete_instance`; the engine calls this instead wherever it has the node's lock."""


@runtime_checkable
class ReportsZones(Protocol):
    """A driver whose cloud has placement zones. The nodes of a request that are launched share one of them."""

    async def zones(self) -> Sequence[str]:
        """Return the names of the zones in which the cloud would place instances, for pools that name none."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that an instance had or has besides itself, such as a floating IP; it can outlive the instance."""

    kind: str
    external_id: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of the instance's metadata, at least the provider's name and, if known, the node's id."""
    detail: str = ""
    """For people."""

    def __str__(self) -> str:
        return f"{self.kind} {self.external_id}" + (f" ({self.detail})" if self.detail else "")


@runtime_checkable
class SupportsLeftovers(Protocol):
    """A driver whose instances have resources that can stay behind after their deletion."""

    async def resources(self) -> Sequence[Resource]:
        """Return all such resources that carry their owner's metadata, except those that go with an existing
        instance."""

    async def delete_resource(self, resource: Resource) -> None:
        """Delete one resource; one that does not exist is deleted."""


@runtime_checkable
class SupportsUpkeep(Protocol):
    """A driver with work of its own beside its calls."""

    async def upkeep(self) -> None:
        """Work until cancelled. It runs as long as the driver is in use, and again after a pause when it fails. The
        driver's calls may come before it runs, and wait for it. May raise StoreError."""

    async def emptied(self) -> None:
        """Wait until nothing is left that only this driver can release, with upkeep running and no pool configured."""


@dataclass(frozen=True, slots=True)
class FaultOffer:
    """A way in which a driver's cloud can be made to fail, or to behave in a rare way."""

    name: str
    call: str | None = None
    """The call that fails meanwhile, as the driver's method is called (``create_instance``); None: that differs."""
    kind: ErrorKind | None = None
    """The kind of error that it has to raise."""
    retry_after_s: float | None = None
    """Seconds for which the cloud meanwhile asks callers to wait; None: it does not say."""


BOOT_HELD, FOREIGN_INSTANCE, LIST_LAGS = "boot-held", "foreign-instance", "list-lags"
"""Names of faults that mean the same for every driver: instances made meanwhile boot only afterwards; there is one more
instance, of another owner; the cloud lists instances made meanwhile only afterwards."""


@runtime_checkable
class SupportsFaults(Protocol):
    """A driver whose cloud can be inspected, and broken, by the conformance kit. No other code calls these, and none
    has an effect before it is called. A fault is the cloud's: every driver with the same configuration, in any process,
    meets it until it is cleared."""

    async def faults(self) -> Sequence[FaultOffer]:
        """Return the available faults."""

    async def set_fault(self, name: str) -> ExternalId | None:
        """Set a fault. Return the instance's id for FOREIGN_INSTANCE. Raises DriverError for an unknown fault."""

    async def clear_fault(self, name: str) -> None:
        """Clear a fault; one that is not set is cleared."""

    async def cloud_resources(self) -> Mapping[str, str | None]:
        """Return all resources in the cloud by name (instances, volumes, addresses, processes), as the cloud reports
        them, and the external id of the instance each belongs to; an instance belongs to itself."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that exists without being launched: one slot of it is one node record.

    Identity is (``name``, ``username``, ``connection_port``, ``slot``). Source: Nodepool 11, static driver.
    """

    pool: str
    name: str
    labels: tuple[str, ...]
    slot: int = 0
    username: str | None = "zuul"
    connection_port: int = 22
    connection_type: str = "ssh"
    python_path: str | None = "auto"
    shell_type: str | None = None

    @property
    def identity(self) -> tuple[str, str | None, int, int]:
        return (self.name, self.username, self.connection_port, self.slot)


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of a check of a machine: its host keys as ``<type> <base64>``, and its addresses."""

    host_keys: tuple[str, ...] = ()
    public_ipv4: str | None = None
    public_ipv6: str | None = None


@runtime_checkable
class SupportsInventory(Protocol):
    """A driver of machines that already exist: the engine keeps one ready node registered per machine slot, hands those
    out, and registers the slot anew after use. No instance is created or deleted in a cloud."""

    def machines(self) -> Sequence[Machine]:
        """Return all machine slots that the configuration names."""

    async def inspect(self, machine: Machine) -> Inspection:
        """Scan the machine's host keys and compare them with configured ones.

        Raises: ProviderUnavailableError when it can't be reached, KeyScanError when a configured key is missing.
        """

    async def is_alive(self, machine: Machine) -> bool:
        """Return True if the machine answers, just before it is handed out."""


@runtime_checkable
class HostScanner(Protocol):
    """The source of host keys and reachability; `nodelaunch.network.sshscan` has the real one."""

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        """Return one key per algorithm that the server offers, each ``<type> <base64>``.

        Waits until the server speaks SSH. Raises: KeyScanError after *timeout_s*.
        """

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        """Wait until a TCP connection can be made. Raises: KeyScanError after *timeout_s*."""


@runtime_checkable
class TriesLogin(Protocol):
    """A scanner that can also check that a user can log in."""

    async def log_in(
        self, host: str, port: int, *, username: str, key_file: str, host_keys: Sequence[str], timeout_s: float
    ) -> None:
        """Wait until *username* can log in, at a server that has one of *host_keys*, with the private key in
        *key_file*. Raises: KeyScanError after *timeout_s*, at once when the file is no such key."""


@dataclass(frozen=True, slots=True)
class DriverContext:
    """The arguments of a driver's factory besides its provider's configuration."""

    scanner: HostScanner
    diskimages: Mapping[str, Any] = field(default_factory=dict)
    """Top-level ``diskimages`` by name, for usernames, python paths and shells."""
    cluster: Cluster | None = None
    """Set for a driver that is itself a client, and offers shares of other providers' nodes."""


__all__ = [
    "BOOT_HELD", "FOREIGN_INSTANCE", "LIST_LAGS", "METADATA_NODE_ID", "METADATA_POOL", "METADATA_PROVIDER", "NO_LIMITS",
    "Driver", "DriverContext", "ExternalId", "FaultOffer", "Fence", "HostScanner", "Inspection", "Instance",
    "InstanceSpec", "LabelTraits", "Limits", "Login", "Machine", "ReportsZones", "Resource", "ScansHostKeys",
    "SupportsConsoleLog", "SupportsFaults", "SupportsFencing", "SupportsInventory", "SupportsLeftovers",
    "SupportsUpkeep", "TriesLogin", "Usage",
]  # fmt: skip
