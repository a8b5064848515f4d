"""Every method and notification of the driver contract, with the models of what they carry.

The models are the contract on the wire: the OpenRPC document is made from them, and both ends check by them. A field
that is not known is ignored, and one that has a default may be left out; so a version may add to them.
What does *not* belong here: sending and receiving (peer.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError

from nodelaunch.errors import MAX_ID, ErrorKind, Scope, legible
from nodelaunch.protocol import driver as port
from nodelaunch.protocol.faults import Fault
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.soundness import MAX_DATA, id_fault, json_fault, text_fault

MAX_LINE: Final = 1 << 20
"""Bytes of one message, its line break included."""
MAX_DRIVER_DATA: Final = MAX_DATA
"""Bytes of ``driver_data`` as JSON."""


def _amounts(value: Any) -> Any:
    return {name: value[name] for name in value} if isinstance(value, (Usage, Limits)) else value


Amounts = Annotated[dict[str, int | float], BeforeValidator(_amounts)]
"""By resource: ``instances``, ``cores``, ``ram`` (MiB), and others. A limit that is not named is none."""


def _sound(fault_of: Callable[[Any], str | None]) -> AfterValidator:
    def check(value: Any) -> Any:
        if (fault := fault_of(value)) is not None:
            raise ValueError(fault)
        return value

    return AfterValidator(check)


Line = Annotated[str, AfterValidator(legible)]
"""A text for people: cut where it is too long, and shown as one line."""
Word = Annotated[str, _sound(text_fault)]
"""A text for programs: of one line, and not long."""
InstanceId = Annotated[str, _sound(id_fault), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_ID})]
Tree = Annotated[dict[str, Any], _sound(json_fault)]
Kind = Annotated[ErrorKind, BeforeValidator(lambda value: value if value in list(ErrorKind) else "internal")]


class Message(BaseModel):
    """Base of all models here."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class Empty(Message):
    """Nothing."""


# -- the handshake --------------------------------------------------------------------------------------------------


class VersionRange(Message):
    """Versions of the contract somebody speaks, both ends included."""

    min: int
    max: int


class Program(Message):
    name: str
    version: str = ""


class HelloParams(Message):
    protocol: VersionRange
    launcher: Program
    nonce: str
    """The launcher's; text that was never used before."""


class HelloResult(Message):
    protocol: VersionRange
    nonce: Word
    """The driver's."""
    proof: Word
    """That the driver has the token: see docs/drivers/process.md."""


class AuthenticateParams(Message):
    protocol: int
    """The version that is spoken from now on."""
    proof: str
    """That the launcher has the token."""


class Schemas(Message):
    """JSON Schemas (2020-12) of the driver's own options, beside those that all drivers have."""

    provider: Tree = Field(default_factory=dict)
    pool: Tree = Field(default_factory=dict)
    label: Tree = Field(default_factory=dict)


class Example(Message):
    """A configuration with which the driver works on any machine, for trying it out and for checks."""

    provider: Tree
    """A provider's mapping, without ``name`` and ``driver``; ``{folder}`` in a text stands for a fresh directory."""


class Identity(Message):
    """What the driver is."""

    name: Line
    version: Line = ""
    summary: Line = ""
    maintainer: Line = ""
    licence: Line = ""
    capabilities: tuple[Line, ...] = ()
    """Methods beyond the ones every driver has; unknown ones are ignored."""
    schemas: Schemas = Field(default_factory=Schemas)
    example: Example | None = None


# -- parts of messages ----------------------------------------------------------------------------------------------


class ImageLogin(Message):
    """How to log in to machines of a diskimage that a builder makes."""

    username: str = "zuul"
    python_path: str = "auto"
    shell_type: str | None = None


class Traits(Message):
    """As `nodelaunch.protocol.driver.LabelTraits`."""

    image_id: str | None = None
    diskimage: str | None = None
    username: str | None = None
    connection_type: str | None = "ssh"
    connection_port: Any = 22
    shell_type: str | None = None
    python_path: str | None = "auto"
    host_key_checking: bool = True
    settle_s: float = 0.0
    probe_key: str | None = None
    console_log: bool = False


class LabelInfo(Message):
    pool: str
    label: str
    traits: Traits = Field(default_factory=Traits)


class MachineInfo(Message):
    """As `nodelaunch.protocol.driver.Machine`."""

    pool: str
    name: str
    labels: tuple[str, ...]
    slot: int = 0
    username: str | None = "zuul"
    connection_port: int = 22
    connection_type: str = "ssh"
    python_path: str | None = "auto"
    shell_type: str | None = None


class FenceInfo(Message):
    """As `nodelaunch.protocol.driver.Fence`."""

    node: str
    number: int


class Spec(Message):
    """As `nodelaunch.protocol.driver.InstanceSpec`."""

    node_id: str
    name: str
    pool: str
    label: str
    metadata: dict[str, str]
    attempt: int = 1
    zone: str | None = None
    image_external_id: str | None = None
    request: dict[str, Any] = Field(default_factory=dict)
    fence: FenceInfo | None = None
    """For drivers with the capability ``fencing``."""


class LoginInfo(Message):
    username: str | None = None
    connection_type: str | None = None
    connection_port: Any = None
    shell_type: str | None = None
    python_path: str | None = None


class InstanceInfo(Message):
    """As `nodelaunch.protocol.driver.Instance`."""

    external_id: InstanceId
    metadata: dict[str, str] = Field(default_factory=dict)
    is_active: StrictBool = False
    interface_ip: str | None = None
    public_ipv4: str | None = None
    private_ipv4: str | None = None
    public_ipv6: str | None = None
    cloud: str | None = None
    region: str | None = None
    zone: str | None = None
    host_id: str | None = None
    hostname: str | None = None
    resources: Amounts | None = None
    connection_port: Any = None
    node_properties: dict[str, Any] = Field(default_factory=dict)
    login: LoginInfo | None = None
    host_keys: tuple[str, ...] | None = None
    expected_host_keys: tuple[str, ...] | None = None
    attributes: dict[str, Any] | None = None
    slot: int | None = None
    driver_data: Any = None


class ResourceInfo(Message):
    """As `nodelaunch.protocol.driver.Resource`."""

    kind: str
    external_id: str
    metadata: dict[str, str] = Field(default_factory=dict)
    detail: str = ""


class FaultInfo(Message):
    """``data`` of an error. An unknown kind counts as internal, an unknown scope as request."""

    kind: Kind
    scope: Annotated[Scope, BeforeValidator(lambda value: value if value in list(Scope) else "request")] = Scope.REQUEST
    retry_after_s: float | None = None
    external_id: str | None = None
    may_exist: bool = False


# -- parameters and results -----------------------------------------------------------------------------------------


class Call(Message):
    deadline_s: float
    """Seconds from now after which nobody waits for the answer any more."""


class OpenParams(Call):
    provider: dict[str, Any]
    """The provider's mapping of the configuration."""
    diskimages: dict[str, ImageLogin] = Field(default_factory=dict)


class OpenResult(Message):
    labels: tuple[LabelInfo, ...] = ()
    """Those whose traits are not the usual ones."""
    machines: tuple[MachineInfo, ...] = ()
    """Of a driver with the capability ``inventory``."""


class CreateParams(Call):
    spec: Spec


class CreateResult(Message):
    external_id: InstanceId
    driver_data: Any = None


class InstanceParams(Call):
    external_id: str
    driver_data: Any = None
    """What the driver gave with this instance last, as far as the launcher still has it."""


class DeleteParams(InstanceParams):
    fence: FenceInfo | None = None
    """For drivers with the capability ``fencing``; None: the call is not to be refused as stale."""


class FenceParams(Call):
    fence: FenceInfo


class InstanceResult(Message):
    instance: InstanceInfo


class ListParams(Call):
    cursor: str | None = None
    """``next_cursor`` of the page before; None: the first page."""


class ListResult(Message):
    instances: tuple[InstanceInfo, ...]
    next_cursor: Word | None = None


class LabelParams(Call):
    pool: str
    label: str


class AmountsResult(Message):
    amounts: Amounts


class ReadyResult(Message):
    is_ready: StrictBool


class KeysResult(Message):
    host_keys: tuple[str, ...]


class TextResult(Message):
    text: str | None = None


class ZonesResult(Message):
    zones: tuple[str, ...]


class ResourcesResult(Message):
    resources: tuple[ResourceInfo, ...]


class ResourceParams(Call):
    resource: ResourceInfo


class MachineParams(Call):
    machine: MachineInfo


class InspectResult(Message):
    host_keys: tuple[str, ...] = ()
    public_ipv4: str | None = None
    public_ipv6: str | None = None


class AliveResult(Message):
    is_alive: StrictBool


class FaultOfferInfo(Message):
    """As `nodelaunch.protocol.driver.FaultOffer`; a ``call`` is a method's name."""

    name: str
    call: str | None = None
    kind: Kind | None = None
    retry_after_s: float | None = None


class FaultsResult(Message):
    faults: tuple[FaultOfferInfo, ...]


class FaultParams(Call):
    name: str


class FaultSetResult(Message):
    external_id: str | None = None
    """Of the instance, for ``foreign-instance``."""


class CloudResourcesResult(Message):
    resources: dict[str, str | None]
    """By its name each thing there is in the cloud, and the external id of the instance it belongs to."""


# -- notifications --------------------------------------------------------------------------------------------------


class CancelNote(Message):
    id: int


class LogNote(Message):
    level: Literal["debug", "info", "warning", "error"] = "info"
    event: str
    fields: dict[str, Any] = Field(default_factory=dict)


class ProgressNote(Message):
    call: int
    """Id of the request it is about."""
    stage: str
    external_id: str | None = None
    """Once there is one; so that it is known if the answer never comes."""
    detail: str = ""


# -- the tables -----------------------------------------------------------------------------------------------------

ParamsT = TypeVar("ParamsT", bound=Message)
ResultT = TypeVar("ResultT", bound=Message)


CLUSTER: Final = "cluster"
"""A capability by which the driver asks the launcher: see `wire/cluster.py`."""


@dataclass(frozen=True, slots=True)
class Method(Generic[ParamsT, ResultT]):
    """One method that a driver answers, or its launcher. *capability*: None for those that every driver has."""

    name: str
    params: type[ParamsT]
    result: type[ResultT]
    summary: str
    capability: str | None = None
    makes: bool = False
    """Whether, when it fails or is cancelled, it may have changed something."""


HELLO = Method("handshake.hello", HelloParams, HelloResult, "Versions, and proof that the driver has the token.")
AUTHENTICATE = Method(
    "handshake.authenticate", AuthenticateParams, Identity, "Proof that the launcher has it; who the driver is."
)
OPEN = Method("driver.open", OpenParams, OpenResult, "Work for this provider from now on; called once.")
CLOSE = Method("driver.close", Call, Empty, "Finish; the connection ends after the answer.")
PING = Method("ping", Call, Empty, "Asked when nothing else is under way.")
CREATE = Method(
    "instance.create", CreateParams, CreateResult, "Ask for an instance; don't wait until it runs.", makes=True
)
WAIT = Method("instance.wait", InstanceParams, InstanceResult, "Wait until it runs and has its addresses.")
DELETE = Method("instance.delete", DeleteParams, Empty, "Delete, and wait until it is gone.", makes=True)
LIST = Method("instance.list", ListParams, ListResult, "All instances the credentials can see, page by page.")
LIMITS = Method("quota.limits", Call, AmountsResult, "The cloud's limits for these credentials.")
LABEL_USAGE = Method("label.usage", LabelParams, AmountsResult, "What one node of the label takes.")
LABEL_READY = Method("label.ready", LabelParams, ReadyResult, "Whether the cloud has what the label needs.")

HOST_KEYS = Method("instance.host_keys", InstanceParams, KeysResult, "SSH host keys.", "host_keys")
CONSOLE_LOG = Method("instance.console_log", InstanceParams, TextResult, "Tail of the console.", "console_log")
ZONES = Method("cloud.zones", Call, ZonesResult, "Names of the placement zones.", "zones")
FENCE = Method("instance.fence", FenceParams, Empty, "Refuse what is older from now on.", "fencing", makes=True)
RESOURCES = Method("resource.list", Call, ResourcesResult, "What can stay behind when instances go.", "leftovers")
DELETE_RESOURCE = Method("resource.delete", ResourceParams, Empty, "Delete one of these.", "leftovers", makes=True)
INSPECT = Method("machine.inspect", MachineParams, InspectResult, "Look at a machine that exists.", "inventory")
IS_ALIVE = Method("machine.is_alive", MachineParams, AliveResult, "Whether the machine answers.", "inventory")
UPKEEP = Method("driver.upkeep", Call, Empty, "The driver's own work, until it is cancelled.", "upkeep")
EMPTIED = Method("driver.emptied", Call, Empty, "Wait until only this driver's own is left.", "upkeep")
FAULTS = Method("fault.list", Call, FaultsResult, "For the conformance kit: how the cloud can be broken.", "faults")
SET_FAULT = Method("fault.set", FaultParams, FaultSetResult, "Have it so, for all drivers of this cloud.", "faults")
CLEAR_FAULT = Method("fault.clear", FaultParams, Empty, "Have it so no longer.", "faults")
CLOUD_RESOURCES = Method("cloud.resources", Call, CloudResourcesResult, "What there is, by the cloud.", "faults")

METHODS: Final[Mapping[str, Method[Any, Any]]] = {
    method.name: method
    for method in (
        HELLO, AUTHENTICATE, OPEN, CLOSE, PING, CREATE, WAIT, DELETE, LIST, LIMITS, LABEL_USAGE, LABEL_READY,
        HOST_KEYS, CONSOLE_LOG, ZONES, FENCE, RESOURCES, DELETE_RESOURCE, INSPECT, IS_ALIVE, UPKEEP, EMPTIED,
        FAULTS, SET_FAULT, CLEAR_FAULT, CLOUD_RESOURCES,
    )
}  # fmt: skip

CANCEL, LOG, PROGRESS = "$/cancel", "log", "progress"
NOTES: Final[Mapping[str, tuple[type[Message], str]]] = {
    CANCEL: (CancelNote, "From the launcher: the answer to this request is not wanted any more. It is answered still."),
    LOG: (LogNote, "From the driver: something for the launcher's log."),
    PROGRESS: (ProgressNote, "From the driver: how far a request has come."),
}

CAPABILITIES: Final[Mapping[str, type]] = {
    "host_keys": port.ScansHostKeys,
    "console_log": port.SupportsConsoleLog,
    "zones": port.ReportsZones,
    "fencing": port.SupportsFencing,
    "leftovers": port.SupportsLeftovers,
    "inventory": port.SupportsInventory,
    "upkeep": port.SupportsUpkeep,
    "faults": port.SupportsFaults,
}
"""What a driver in this process has instead of a capability's name."""


LOCAL_PROCESSES = "local_processes"
"""A capability without methods: what the driver started in a session of its own is an instance, and outlives it."""


FAULTY_CALLS: Final[Mapping[str, str]] = {
    "create_instance": CREATE.name,
    "wait_until_active": WAIT.name,
    "delete_instance": DELETE.name,
    "list_instances": LIST.name,
    "quota_limits": LIMITS.name,
    "quota_for_label": LABEL_USAGE.name,
    "label_ready": LABEL_READY.name,
}
"""Methods that a fault may name, as the port calls them and on the wire."""


# -- to and from the port -------------------------------------------------------------------------------------------


def plain(message: Message, **instead: Any) -> dict[str, Any]:
    """The fields of *message* by name, one level deep; *instead*: values that go before."""
    return {**{name: getattr(message, name) for name in type(message).model_fields}, **instead}


def instance_from(info: InstanceInfo) -> port.Instance:
    usage = None if info.resources is None else Usage(info.resources)
    login = None if info.login is None else port.Login(**plain(info.login))
    return port.Instance(**plain(info, external_id=port.ExternalId(info.external_id), resources=usage, login=login))


def spec_from(spec: Spec) -> port.InstanceSpec:
    return port.InstanceSpec(**plain(spec, fence=fence_from(spec.fence)))


def fence_to(fence: port.Fence) -> FenceInfo:
    return FenceInfo(node=fence.node, number=fence.number)


def fence_from(info: FenceInfo | None) -> port.Fence | None:
    return None if info is None else port.Fence(info.node, info.number)


def fault_from(message: str, info: FaultInfo) -> Fault:
    return Fault(message=message, **plain(info))


def offer_to(offer: port.FaultOffer) -> FaultOfferInfo:
    call = FAULTY_CALLS.get(offer.call or "")
    return FaultOfferInfo(name=offer.name, call=call, kind=offer.kind, retry_after_s=offer.retry_after_s)


def offer_from(info: FaultOfferInfo) -> port.FaultOffer:
    """A call that is not known is that of none."""
    calls = {method: call for call, method in FAULTY_CALLS.items()}
    return port.FaultOffer(info.name, calls.get(info.call or ""), info.kind, info.retry_after_s)


MAX_PLACES: Final = 5
"""That are named of all those where a message is wrong."""


def places_in(error: ValidationError) -> str:
    """Where a message is wrong, and how where that is more than its type."""
    faults = error.errors(include_url=False, include_input=False)
    named = []
    for fault in faults[:MAX_PLACES]:
        place = ".".join(map(str, fault["loc"]))
        why = fault.get("ctx", {}).get("error")
        named.append(f"{place} ({why})" if isinstance(why, ValueError) else place)
    return ", ".join(named) + (f", and {len(faults) - MAX_PLACES} more" if len(faults) > MAX_PLACES else "")
