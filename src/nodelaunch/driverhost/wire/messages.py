"""All methods and notifications of the driver contract, with the models of their parameters and results.

The models define the contract on the wire: the OpenRPC document is generated from them, and both ends validate with
them. Unknown fields are ignored, and a field with a default may be omitted, so a version can add fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
"""Amounts by resource: ``instances``, ``cores``, ``ram`` (MiB), and others. A missing resource has no limit."""


def _sound(fault_of: Callable[[Any], str | None]) -> AfterValidator:
    def check(value: Any) -> Any:
        if (fault := fault_of(value)) is not None:
            raise ValueError(fault)
        return value

    return AfterValidator(check)


Line = Annotated[str, AfterValidator(legible)]
"""A text for people: shortened if it is too long, and shown as one line."""
Word = Annotated[str, _sound(text_fault)]
"""A text for programs: one line of limited length."""
InstanceId = Annotated[str, _sound(id_fault), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_ID})]
Tree = Annotated[dict[str, Any], _sound(json_fault)]
Kind = Annotated[ErrorKind, BeforeValidator(lambda value: value if value in list(ErrorKind) else "internal")]


class Message(BaseModel):
    """The base of all messages."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class Empty(Message):
    """An empty object."""


# -- the handshake --------------------------------------------------------------------------------------------------


class VersionRange(Message):
    """The versions of the contract that one end speaks; both bounds are included."""

    min: int
    max: int


class Program(Message):
    name: str
    version: str = ""


class HelloParams(Message):
    protocol: VersionRange
    launcher: Program
    nonce: str
    """The launcher's nonce, a text that it never used before."""


class HelloResult(Message):
    protocol: VersionRange
    nonce: Word
    """The driver's nonce."""
    proof: Word
    """Proof that the driver has the token: see docs/drivers/process.md."""


class AuthenticateParams(Message):
    protocol: int
    """The version for all further messages."""
    proof: str
    """Proof that the launcher has the token."""


class Schemas(Message):
    """JSON Schemas (2020-12) of the driver's own options, without the options that all drivers have."""

    provider: Tree = Field(default_factory=dict)
    pool: Tree = Field(default_factory=dict)
    label: Tree = Field(default_factory=dict)


class Example(Message):
    """A configuration with which the driver works on any machine, for trials and checks."""

    provider: Tree
    """A provider's mapping, without ``name`` and ``driver``; ``{folder}`` in a text stands for a new directory."""


class Identity(Message):
    """The driver's description of itself."""

    name: Line
    version: Line = ""
    summary: Line = ""
    maintainer: Line = ""
    licence: Line = ""
    capabilities: tuple[Line, ...] = ()
    """The driver's capabilities; unknown ones are ignored."""
    schemas: Schemas = Field(default_factory=Schemas)
    example: Example | None = None


# -- parts of messages ----------------------------------------------------------------------------------------------


class ImageLogin(Message):
    """Login data for machines of a diskimage that a builder makes."""

    username: str = "zuul"
    python_path: str = "auto"
    shell_type: str | None = None


class Traits(Message):
    """The fields of `nodelaunch.protocol.driver.LabelTraits`."""

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
    """The fields of `nodelaunch.protocol.driver.Machine`."""

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
    """The fields of `nodelaunch.protocol.driver.Fence`."""

    node: str
    number: int


class Spec(Message):
    """The fields of `nodelaunch.protocol.driver.InstanceSpec`."""

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
    """The fields of `nodelaunch.protocol.driver.Instance`."""

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
    """The fields of `nodelaunch.protocol.driver.Resource`."""

    kind: str
    external_id: str
    metadata: dict[str, str] = Field(default_factory=dict)
    detail: str = ""


class FaultInfo(Message):
    """The ``data`` of an error. An unknown kind counts as internal, an unknown scope as request."""

    kind: Kind
    scope: Annotated[Scope, BeforeValidator(lambda value: value if value in list(Scope) else "request")] = Scope.REQUEST
    retry_after_s: float | None = None
    external_id: str | None = None
    may_exist: bool = False


# -- parameters and results -----------------------------------------------------------------------------------------


class Call(Message):
    deadline_s: float
    """Seconds from now for which the caller waits for the answer."""


class OpenParams(Call):
    provider: dict[str, Any]
    """The provider's mapping in the configuration."""
    diskimages: dict[str, ImageLogin] = Field(default_factory=dict)


class OpenResult(Message):
    labels: tuple[LabelInfo, ...] = ()
    """Labels whose traits differ from the defaults."""
    machines: tuple[MachineInfo, ...] = ()
    """Machines of a driver with the capability ``inventory``."""


class CreateParams(Call):
    spec: Spec


class CreateResult(Message):
    external_id: InstanceId
    driver_data: Any = None


class InstanceParams(Call):
    external_id: str
    driver_data: Any = None
    """The last driver data for this instance, if the launcher still has it."""


class DeleteParams(InstanceParams):
    fence: FenceInfo | None = None
    """For drivers with the capability ``fencing``. A call without a fence is never stale."""


class FenceParams(Call):
    fence: FenceInfo


class InstanceResult(Message):
    instance: InstanceInfo


class ListParams(Call):
    cursor: str | None = None
    """``next_cursor`` of the previous page; None: the first page."""


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
    """The fields of `nodelaunch.protocol.driver.FaultOffer`; ``call`` is the name of a method."""

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
    """Id of the new instance, for ``foreign-instance``."""


class CloudResourcesResult(Message):
    resources: dict[str, str | None]
    """All resources in the cloud by name, each with the external id of its instance."""


# -- notifications --------------------------------------------------------------------------------------------------


class CancelNote(Message):
    id: int


class LogNote(Message):
    level: Literal["debug", "info", "warning", "error"] = "info"
    event: str
    fields: dict[str, Any] = Field(default_factory=dict)


class ProgressNote(Message):
    call: int
    """Id of the request that makes progress."""
    stage: str
    external_id: str | None = None
    """Id of the instance, as soon as it is known: the answer may never come."""
    detail: str = ""


# -- the tables -----------------------------------------------------------------------------------------------------

ParamsT = TypeVar("ParamsT", bound=Message)
ResultT = TypeVar("ResultT", bound=Message)


CLUSTER: Final = "cluster"
"""A capability with which the driver calls the launcher: see `wire/cluster.py`."""


@dataclass(frozen=True, slots=True)
class Method(Generic[ParamsT, ResultT]):
    """A method that a driver or its launcher answers. *capability*: None for methods that every driver has."""

    name: str
    params: type[ParamsT]
    result: type[ResultT]
    summary: str
    capability: str | None = None
    makes: bool = False
    """True if a failed or cancelled call may have changed something."""
    calls: str | None = None
    """The method of the port that does the same, with the parameters as its arguments in this order. Both ends make
    such calls from this table alone. None: both ends have code for this method."""
    returns: str | None = None
    """The field of the result that has what the port's method returns; None: the whole result has it."""
    lasts: Literal["short", "long", "endless"] = "short"
    """How long the launcher waits for the answer."""

    def arguments_of(self, params: ParamsT) -> list[Any]:
        """Return the arguments of the port's method."""
        return [_to_port(getattr(params, name)) for name in self._names]

    def params_of(self, arguments: Sequence[Any], **others: Any) -> ParamsT:
        """Return the parameters for *arguments* of the port's method; *others*: those that the port does not have."""
        return self.params.model_validate({**dict(zip(self._names, arguments, strict=True)), **others})

    def result_of(self, returned: Any) -> ResultT:
        """Return the result that has what the port's method *returned*. Raises: ValidationError."""
        if self.result is Empty:
            return self.result()
        wired = tuple(map(_to_wire, returned)) if isinstance(returned, (list, tuple)) else returned
        return self.result.model_validate(wired if self.returns is None else {self.returns: wired})

    def returned_in(self, result: ResultT) -> Any:
        """Return what the port's method returned, from the result."""
        if self.result is Empty:
            return None
        value = result if self.returns is None else getattr(result, self.returns)
        return tuple(map(_to_port, value)) if isinstance(value, tuple) else _to_port(value)

    @property
    def _names(self) -> list[str]:
        return [name for name in self.params.model_fields if name not in _BESIDES_ARGUMENTS]


_BESIDES_ARGUMENTS: Final = ("deadline_s", "driver_data")
"""Parameters that the methods of the port do not have."""


HELLO = Method(
    "handshake.hello", HelloParams, HelloResult, "Exchange versions; the driver proves that it has the token."
)
AUTHENTICATE = Method(
    "handshake.authenticate",
    AuthenticateParams,
    Identity,
    "The launcher proves that it has the token; the driver describes itself.",
)
OPEN = Method("driver.open", OpenParams, OpenResult, "Start to work for this provider; called once.")
CLOSE = Method("driver.close", Call, Empty, "Stop working; the connection ends after the answer.")
PING = Method("ping", Call, Empty, "Check that an idle driver answers.")
CREATE = Method("instance.create", CreateParams, CreateResult, "Create an instance; return before it runs.", makes=True)
WAIT = Method("instance.wait", InstanceParams, InstanceResult, "Wait until the instance runs and has its addresses.")
DELETE = Method("instance.delete", DeleteParams, Empty, "Delete the instance and wait for its end.", makes=True)
LIST = Method("instance.list", ListParams, ListResult, "List all instances that the credentials can see, page by page.")
LIMITS = Method(
    "quota.limits", Call, AmountsResult, "Return the cloud's limits for these credentials.",
    calls="quota_limits", returns="amounts",
)  # fmt: skip
LABEL_USAGE = Method(
    "label.usage", LabelParams, AmountsResult, "Return the usage of one node of the label.",
    calls="quota_for_label", returns="amounts",
)  # fmt: skip
LABEL_READY = Method(
    "label.ready", LabelParams, ReadyResult, "Return true if the cloud has all resources of the label, such as images.",
    calls="label_ready", returns="is_ready",
)  # fmt: skip

HOST_KEYS = Method(
    "instance.host_keys", InstanceParams, KeysResult, "Return the SSH host keys.", "host_keys",
    calls="host_keys", returns="host_keys",
)  # fmt: skip
CONSOLE_LOG = Method(
    "instance.console_log", InstanceParams, TextResult, "Return the end of the console.", "console_log",
    calls="console_log", returns="text",
)  # fmt: skip
ZONES = Method(
    "cloud.zones", Call, ZonesResult, "Return the names of the zones.", "zones", calls="zones", returns="zones"
)
FENCE = Method(
    "instance.fence", FenceParams, Empty, "Refuse calls with older fences.", "fencing", makes=True, calls="raise_fence"
)
RESOURCES = Method(
    "resource.list", Call, ResourcesResult, "List resources that can leak.", "leftovers",
    calls="resources", returns="resources",
)  # fmt: skip
DELETE_RESOURCE = Method(
    "resource.delete", ResourceParams, Empty, "Delete one such resource.", "leftovers", makes=True,
    calls="delete_resource", lasts="long",
)  # fmt: skip
INSPECT = Method(
    "machine.inspect", MachineParams, InspectResult, "Inspect an existing machine.", "inventory", calls="inspect"
)
IS_ALIVE = Method(
    "machine.is_alive", MachineParams, AliveResult, "Return true if the machine answers.", "inventory",
    calls="is_alive", returns="is_alive",
)  # fmt: skip
UPKEEP = Method(
    "driver.upkeep", Call, Empty, "Do the driver's own work until cancelled.", "upkeep", calls="upkeep", lasts="endless"
)
EMPTIED = Method(
    "driver.emptied", Call, Empty, "Wait until no resource is left that needs this driver.", "upkeep",
    calls="emptied", lasts="endless",
)  # fmt: skip
FAULTS = Method(
    "fault.list", Call, FaultsResult, "For the conformance kit: list the faults.", "faults",
    calls="faults", returns="faults",
)  # fmt: skip
SET_FAULT = Method(
    "fault.set", FaultParams, FaultSetResult, "Set a fault for all drivers of this cloud.", "faults",
    calls="set_fault", returns="external_id",
)  # fmt: skip
CLEAR_FAULT = Method("fault.clear", FaultParams, Empty, "Clear a fault.", "faults", calls="clear_fault")
CLOUD_RESOURCES = Method(
    "cloud.resources", Call, CloudResourcesResult, "List the cloud's resources.", "faults",
    calls="cloud_resources", returns="resources",
)  # fmt: skip

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
    CANCEL: (CancelNote, "From the launcher: cancel this request. The driver still answers it."),
    LOG: (LogNote, "From the driver: an entry for the launcher's log."),
    PROGRESS: (ProgressNote, "From the driver: the progress of a request."),
}

CAPABILITIES: Final[Mapping[str, type]] = {
    "host_keys": port.SupportsHostKeyScan,
    "console_log": port.SupportsConsoleLog,
    "zones": port.SupportsZones,
    "fencing": port.SupportsFencing,
    "leftovers": port.SupportsLeftovers,
    "inventory": port.SupportsInventory,
    "upkeep": port.SupportsUpkeep,
    "faults": port.SupportsFaults,
}
"""The protocol that a driver inside the launcher implements for each capability."""


LOCAL_PROCESSES = "local_processes"
"""A capability without methods: a process in its own session is an instance, and outlives the driver."""


FAULTY_CALLS: Final[Mapping[str, str]] = {
    "create_instance": CREATE.name,
    "wait_until_active": WAIT.name,
    "delete_instance": DELETE.name,
    "list_instances": LIST.name,
    "quota_limits": LIMITS.name,
    "quota_for_label": LABEL_USAGE.name,
    "label_ready": LABEL_READY.name,
}
"""Methods that a fault may name: the name in the port, and the name on the wire."""


# -- to and from the port -------------------------------------------------------------------------------------------


def plain(message: Message, **instead: Any) -> dict[str, Any]:
    """Return the fields of *message* by name, one level deep; the values in *instead* replace fields."""
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
    """Return the offer; an unknown call becomes None."""
    calls = {method: call for call, method in FAULTY_CALLS.items()}
    return port.FaultOffer(info.name, calls.get(info.call or ""), info.kind, info.retry_after_s)


def _to_wire(value: Any) -> Any:
    """Return what stands for *value* of the port; most values stand for themselves."""
    return offer_to(value) if isinstance(value, port.FaultOffer) else value


def _to_port(value: Any) -> Any:
    """Return the value of the port that *value* stands for."""
    match value:
        case FenceInfo():
            return fence_from(value)
        case ResourceInfo():
            return port.Resource(**plain(value))
        case MachineInfo():
            return port.Machine(**plain(value))
        case InspectResult():
            return port.Inspection(**plain(value))
        case FaultOfferInfo():
            return offer_from(value)
        case _:
            return value


MAX_PLACES: Final = 5
"""Most places of a message that an error names."""


def places_in(error: ValidationError) -> str:
    """Return the invalid places of a message, each with the reason if it is not only the type."""
    faults = error.errors(include_url=False, include_input=False)
    named = []
    for fault in faults[:MAX_PLACES]:
        place = ".".join(map(str, fault["loc"]))
        why = fault.get("ctx", {}).get("error")
        named.append(f"{place} ({why})" if isinstance(why, ValueError) else place)
    return ", ".join(named) + (f", and {len(faults) - MAX_PLACES} more" if len(faults) > MAX_PLACES else "")
