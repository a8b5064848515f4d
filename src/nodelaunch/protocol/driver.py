"""The port to a cloud: the calls that the engine makes to a driver.

A driver knows its cloud, and nothing of stores, requests, retries and records: these belong to the engine. Each rule
for drivers has a number, and a check in ``nodelaunch.conformance``.

==== =================================================================================================================
D1   ``create_instance`` returns as soon as the cloud gave an id; it does not wait for the machine.
D2   ``spec.metadata`` is put on every resource, in the creating call, and comes back unchanged from
     ``list_instances``.
D3   If a create fails or is cancelled it leaves nothing, or only what ``list_instances`` shows.
D4   ``wait_until_active`` may be called again, also by another process, for the same id; the caller sets the deadline.
D5   ``delete_instance`` may be called twice, and returns only when the instance no longer exists.
D6   ``list_instances`` shows everything that the credentials can see, of any owner; quota is counted from it.
D7   Only `DriverError` subclasses are raised; only the driver reads the text of a cloud's messages.
D8   A driver can be rebuilt at any time from its configuration, its cloud, and the ids in records.
D9   Calls run concurrently and never block the event loop.
D14  A driver with `SupportsFencing` refuses the calls of a launcher after another launcher took over the node.
==== =================================================================================================================
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NewType, Protocol, runtime_checkable

from nodelaunch.errors import ErrorKind
from nodelaunch.oldnames import renamed
from nodelaunch.protocol.cluster import Cluster
from nodelaunch.protocol.quota import NO_LIMITS, Limits, Usage

ExternalId = NewType("ExternalId", str)
"""The cloud's name of an instance."""

METADATA_NODE_ID = "nodepool_node_id"
METADATA_POOL = "nodepool_pool_name"
METADATA_PROVIDER = "nodepool_provider_name"
"""Keys of the metadata on every instance; leak detection and quota depend on them. Source: Nodepool 11."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Orders the calls that change a cloud for one node: a call is stale if another call with the same ``node`` had a
    higher ``number``. Fences of different nodes have no order."""

    node: str
    """The node's id, and the time when its record was made: ids repeat if a store was wiped, or restored from a copy.
    Compare it as a whole."""
    number: int
    """A number that is higher for each later holder of the node's lock, and the same for all calls of one holder."""


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
    """The fence, for drivers with `SupportsFencing`; None: the call is never stale."""


@dataclass(frozen=True, slots=True)
class Login:
    """The login of an instance. All fields are recorded unchanged, also None."""

    username: str | None
    connection_type: str | None
    connection_port: Any
    shell_type: str | None
    python_path: str | None


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as the cloud reports it. Addresses are None until they are known; ``resources`` is None if the cloud
    does not report them."""

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
    """A port that overrides the label's: an int, or an object with credentials, as for Nodepool's Kubernetes drivers.
    """
    node_properties: Mapping[str, Any] = field(default_factory=dict)
    login: Login | None = None
    """A login that overrides the label's, if instances of one label differ."""
    host_keys: Sequence[str] | None = None
    """Host keys, each ``<type> <base64>``, if the driver knows them; they override the keys that the engine scanned."""
    expected_host_keys: Sequence[str] | None = None
    """Host keys, each ``<type> <base64>``, if the driver gave them to the machine: the engine checks that the machine
    has them, and records only these, with an `Assurance`. The launch of a machine without them fails."""
    attributes: Mapping[str, Any] | None = None
    """Attributes of the instance; the pool's ``node-attributes`` override them."""
    slot: int | None = None
    """The slot of a shared machine, if it has several."""
    driver_data: Any = None
    """Data of the driver that is kept in the record; opaque to all other code."""


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
    """Seconds for which host keys have to stay the same before they are recorded; 0: they are scanned once."""
    probe_key: str | None = None
    """File of a private key: the machine counts as ready after ``username`` could log in with the key. None: no login
    is tried."""
    console_log: bool = False


class Driver(Protocol):
    """The cloud of one provider. All calls are on the event loop, concurrently; deadlines are the caller's."""

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        """Return the traits of *label* in *pool* without asking the cloud."""

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        """Request an instance. Raises: QuotaExceededError, InsufficientCapacityError, LaunchFailedError,
        LabelUnusableError, ProviderUnavailableError; ``external_id`` is set if an instance may have been left."""

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        """Wait until the instance runs and has its addresses. Raises the errors of `create_instance`, and
        InstanceNotFoundError if the instance does not exist any more."""

    async def delete_instance(self, external_id: ExternalId) -> None:
        """Delete the instance, and wait until it no longer exists. Succeeds if it never existed."""

    def list_instances(self) -> AsyncIterator[Instance]:
        """Yield every instance that these credentials can see."""

    async def quota_limits(self) -> Limits:
        """Return the cloud's limits for these credentials."""

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        """Return the usage of one node of *label* in *pool*. Raises LabelUnusableError."""

    async def label_ready(self, pool: str, label: str) -> bool:
        """Return True if the cloud has all resources of the label, for example its image. False: the pool declines it
        for now."""

    async def aclose(self) -> None:
        """Close connections; instances stay."""


@runtime_checkable
class SupportsHostKeyScan(Protocol):
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
        """Make every call with a lower fence stale as soon as this call returns. The engine calls this method before it
        looks for an instance of an earlier holder of the node's lock, or resumes its launch."""

    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        """Delete like `delete_instance`; the engine calls this instead wherever it has the node's lock."""


@runtime_checkable
class SupportsZones(Protocol):
    """A driver whose cloud has placement zones. The nodes of a request that are launched share one of them."""

    async def zones(self) -> Sequence[str]:
        """Return the names of the zones in which the cloud would place instances, for pools that name none."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource besides the instance itself, such as a floating IP; it can outlive the instance."""

    kind: str
    external_id: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The instance's metadata: at least the provider's name and, if known, the node's id."""
    detail: str = ""
    """A description for people."""

    def __str__(self) -> str:
        return f"{self.kind} {self.external_id}" + (f" ({self.detail})" if self.detail else "")


@runtime_checkable
class SupportsLeftovers(Protocol):
    """A driver whose instances have resources that can stay behind after their deletion."""

    async def resources(self) -> Sequence[Resource]:
        """Return all such resources that carry their owner's metadata, except the resources of existing instances."""

    async def delete_resource(self, resource: Resource) -> None:
        """Delete one resource; one that does not exist is deleted."""


@runtime_checkable
class SupportsUpkeep(Protocol):
    """A driver that also works between its calls."""

    async def upkeep(self) -> None:
        """Do the driver's own work until cancelled. The engine runs this method as long as the driver is in use, and
        restarts it after a pause if it fails. Other calls of the driver may come before it runs, and wait for it. May
        raise StoreError."""

    async def emptied(self) -> None:
        """Wait until nothing is left that only this driver can release, with upkeep running and no pool configured."""


@dataclass(frozen=True, slots=True)
class FaultOffer:
    """A way in which a driver's cloud can be made to fail, or to behave in a rare way."""

    name: str
    call: str | None = None
    """The call that fails while the fault is set, by its name in this port (``create_instance``); None: it differs."""
    kind: ErrorKind | None = None
    """The kind of error that the call raises."""
    retry_after_s: float | None = None
    """Seconds for which the cloud asks callers to wait while the fault is set; None: the cloud gives no time."""


BOOT_HELD, FOREIGN_INSTANCE, LIST_LAGS = "boot-held", "foreign-instance", "list-lags"
"""Names of faults that have the same effect for every driver. While ``boot-held`` is set, new instances don't boot
until it is cleared. ``foreign-instance`` adds an instance of another owner. While ``list-lags`` is set, lists lack the
new instances."""


@runtime_checkable
class SupportsFaults(Protocol):
    """A driver whose cloud the conformance kit can inspect and break. No other code makes these calls, and no fault is
    set until one of them sets it. A fault belongs to the cloud: it affects every driver with the same configuration, in
    any process, until it is cleared."""

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
    """A driver of machines that already exist. The engine keeps one ready node registered for each machine slot, hands
    these nodes out, and registers the slot again after use. No instance is created or deleted in a cloud."""

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
class SupportsLoginTrial(Protocol):
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
    "InstanceSpec", "LabelTraits", "Limits", "Login", "Machine", "Resource", "SupportsConsoleLog", "SupportsFaults",
    "SupportsFencing", "SupportsHostKeyScan", "SupportsInventory", "SupportsLeftovers", "SupportsLoginTrial",
    "SupportsUpkeep", "SupportsZones", "Usage",
]  # fmt: skip


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        old = {"ReportsZones": SupportsZones, "ScansHostKeys": SupportsHostKeyScan, "TriesLogin": SupportsLoginTrial}
        return renamed(__name__, name, old)
