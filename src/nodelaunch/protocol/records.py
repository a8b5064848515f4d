"""The records in znodes, as frozen dataclasses to and from JSON bytes.

Every known key is always written, null included, because Zuul repeats just the keys it has read; unknown keys are kept
on rewriting. Python's own ``json`` is used since ``requestor_data`` carries 128-bit integers, which faster codecs lose.
What does *not* belong here: locks, tasks, versions (those are the store's), and what may be written when.

Source: Nodepool 11, its record classes; Zuul 11.3 to 14.3, the readers of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from math import isfinite
from typing import Any, ClassVar, Self, TypeVar

from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.states import ComponentState, ImageState, NodeState, RequestState

JsonObject = dict[str, Any]
RequestOrder = tuple[str, int, str]
T = TypeVar("T")


# -- reading single values ------------------------------------------------------------------------------------------


class _Fields:
    """One JSON object being read: takes keys out one by one, so that what is left is unknown."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RecordInvalidError(path, f"not JSON: {error}" if data else "empty") from None
        if not isinstance(body, dict):
            raise RecordInvalidError(path, f"a JSON object was expected, found {_kind(body)}")
        self.rest: JsonObject = body

    def take(self, key: str, read: Callable[[Any], T], default: T) -> T:
        """The value of *key* as *read* makes it; *default* when it is absent."""
        if key not in self.rest:
            return default
        value = self.rest.pop(key)
        try:
            return read(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordInvalidError(self.path, f"{key}: {error}") from None


def _kind(value: object) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r:.60}"


def _anything(value: Any) -> Any:
    return value


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"text or null was expected, found {_kind(value)}")


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"text was expected, found {_kind(value)}")


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise TypeError(f"a list of texts was expected, found {_kind(value)}")


def _labels(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else _texts(value)


def _keys(value: Any) -> tuple[str, ...]:
    return () if value is None else _texts(value)


def _mapping(value: Any) -> JsonObject | None:
    if value is None or isinstance(value, dict):
        return value
    raise TypeError(f"an object or null was expected, found {_kind(value)}")


def _object(value: Any) -> JsonObject:
    if isinstance(value, dict):
        return value
    raise TypeError(f"an object was expected, found {_kind(value)}")


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    raise TypeError(f"a number was expected, found {_kind(value)}")


def _number_or_none(value: Any) -> float | None:
    return None if value is None else _number(value)


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"a whole number was expected, found {_kind(value)}")


def _whole_or_none(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"true or false was expected, found {_kind(value)}")


def _required_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"text was expected, found {_kind(value)}")


def _expiration(value: Any) -> int | None:
    """Seconds to hold; a numeric text counts, anything else is 0. Source: Nodepool 11, Node.hold_expiration."""
    if value is None:
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _amounts(value: Any) -> Mapping[str, float] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: _number(amount) for name, amount in value.items() if amount is not None}
    raise TypeError(f"an object or null was expected, found {_kind(value)}")


# -- the one list of fields -----------------------------------------------------------------------------------------


def _key(name: str, read: Callable[[Any], Any], default: Any = None, **kwargs: Any) -> Any:
    """A dataclass field stored under JSON key *name*, read by *read*, *default* when absent."""
    return field(default=default, metadata={"key": name, "read": read}, **kwargs)


@dataclass(frozen=True, kw_only=True)
class _Record:
    """Shared coding of records: a field made with `_key` is a key of the JSON object, in the fields' order."""

    SORTED: ClassVar[bool] = False
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Keys we don't know, kept for whoever does."""

    def to_bytes(self) -> bytes:
        body = {f.metadata["key"]: _plain(getattr(self, f.name)) for f in fields(self) if "key" in f.metadata}
        body |= {key: value for key, value in self.extra.items() if key not in body}
        return json.dumps(body, sort_keys=self.SORTED).encode()

    @classmethod
    def _read(cls, where: str, data: bytes, /, **given: Any) -> Self:
        source = _Fields(where, data)
        values = dict(given)
        for f in fields(cls):
            if "key" in f.metadata:
                default = values.get(f.name, f.default)
                values[f.name] = source.take(f.metadata["key"], f.metadata["read"], default)
        return cls(**values, extra=source.rest)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


# -- node requests --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NodeRequest(_Record):
    """An ordered list of labels wanted, one node each. Times are seconds since 1970."""

    id: RequestId
    state: RequestState = _key("state", RequestState, RequestState.REQUESTED)
    state_time: float = _key("state_time", _number, 0.0)
    declined_by: tuple[str, ...] = _key("declined_by", _texts, ())
    node_types: tuple[str, ...] = _key("node_types", _texts, ())
    nodes: tuple[NodeId, ...] = _key("nodes", _texts, ())
    reuse: bool = _key("reuse", _flag, True)
    requestor: str | None = _key("requestor", _text)
    requestor_data: Any = _key("requestor_data", _anything)
    provider: str | None = _key("provider", _text)
    relative_priority: int = _key("relative_priority", _whole, 0)
    event_id: str | None = _key("event_id", _text)
    created_time: float | None = _key("created_time", _number_or_none)
    tenant_name: str | None = _key("tenant_name", _text)

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, request_id: RequestId, modified_at: float = 0.0) -> Self:
        """The node request held in *data*, the body of the znode at *path*, last written *modified_at*.

        Raises: RecordInvalidError when it is anything else.
        """
        request = cls._read(path, data, id=request_id, state=None, state_time=modified_at)
        if request.state is None:
            raise RecordInvalidError(path, "state: missing")
        return request

    @property
    def order(self) -> RequestOrder:
        """What requests are served by: priority as text, relative priority, sequence. Smaller is first."""
        priority, _, sequence = self.id.partition("-")
        return (priority, self.relative_priority, sequence)

    def into(self, state: RequestState, now: float, **changes: Any) -> Self:
        """This request in *state* as of *now*, with other *changes*."""
        return replace(self, state=state, state_time=now, **changes)

    @property
    def template_values(self) -> JsonObject:
        """What an operator's tag templates may use. Source: Nodepool 11, NodeRequest.getSafeAttributes."""
        return {
            "id": self.id,
            "labels": list(self.node_types),
            "requestor": self.requestor,
            "requestor_data": self.requestor_data,
            "relative_priority": self.relative_priority,
            "event_id": self.event_id,
            "created_time": self.created_time,
            "tenant_name": self.tenant_name,
        }


# -- nodes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Node(_Record):
    """One machine offered, or on its way. Times are seconds since 1970; ``resources`` as in quota.py."""

    id: NodeId
    state: NodeState = _key("state", NodeState, NodeState.INIT)
    state_time: float = _key("state_time", _number, 0.0)
    cloud: str | None = _key("cloud", _text)
    provider: str | None = _key("provider", _text)
    pool: str | None = _key("pool", _text)
    type: tuple[str, ...] = _key("type", _labels, ())
    allocated_to: RequestId | None = _key("allocated_to", _text)
    az: str | None = _key("az", _text)
    region: str | None = _key("region", _text)
    public_ipv4: str | None = _key("public_ipv4", _text)
    private_ipv4: str | None = _key("private_ipv4", _text)
    public_ipv6: str | None = _key("public_ipv6", _text)
    host_id: str | None = _key("host_id", _text)
    interface_ip: str | None = _key("interface_ip", _text)
    connection_port: Any = _key("connection_port", _anything, 22)
    ssh_port: Any = _key("ssh_port", _anything, 22)
    image_id: str | None = _key("image_id", _text)
    launcher: str | None = _key("launcher", _text)
    created_time: float | None = _key("created_time", _number_or_none)
    external_id: Any = _key("external_id", _anything)
    hostname: str | None = _key("hostname", _text)
    comment: str | None = _key("comment", _text)
    user_data: Any = _key("user_data", _anything)
    hold_job: str | None = _key("hold_job", _text)
    host_keys: tuple[str, ...] = _key("host_keys", _keys, ())
    username: str | None = _key("username", _text)
    connection_type: str | None = _key("connection_type", _text)
    shell_type: str | None = _key("shell_type", _text)
    hold_expiration: int | None = _key("hold_expiration", _expiration)
    resources: Mapping[str, float] | None = _key("resources", _amounts)
    slot: int | None = _key("slot", _whole_or_none)
    attributes: JsonObject | None = _key("attributes", _mapping)
    python_path: str | None = _key("python_path", _text)
    tenant_name: str | None = _key("tenant_name", _text)
    driver_data: Any = _key("driver_data", _anything)
    requestor: str | None = _key("requestor", _text)
    node_properties: JsonObject | None = _key("node_properties", _mapping)

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, node_id: NodeId, modified_at: float = 0.0) -> Self:
        """The node held in *data*, the body of the znode at *path*, last written *modified_at*.

        An absent ``connection_port`` falls back to ``ssh_port``, an absent ``username`` to ``zuul``.
        Raises: RecordInvalidError when it is anything else.
        """
        missing = object()
        node = cls._read(
            path, data, id=node_id, state=None, state_time=modified_at, connection_port=missing, username="zuul"
        )
        if node.state is None:
            raise RecordInvalidError(path, "state: missing")
        return replace(node, connection_port=node.ssh_port) if node.connection_port is missing else node

    def into(self, state: NodeState, now: float, **changes: Any) -> Self:
        """This node in *state* as of *now*, with other *changes*."""
        return replace(self, state=state, state_time=now, **changes)

    def allocated(self, request: NodeRequest) -> Self:
        """This node tied to *request*; its state, and so its age, stays."""
        return replace(self, allocated_to=request.id, tenant_name=request.tenant_name, requestor=request.requestor)

    def deallocated(self) -> Self:
        """This node free for anybody; it no longer counts for a tenant."""
        return replace(self, allocated_to=None, tenant_name=None, requestor=None)

    @property
    def is_idle(self) -> bool:
        """Ready and nobody's: for reuse, for max-ready-age, for making room."""
        return self.state is NodeState.READY and not self.allocated_to

    @property
    def usage(self) -> Usage | None:
        """What it takes of quota; None while the record doesn't say."""
        return None if self.resources is None else Usage(self.resources)

    def with_port(self, port: Any) -> Self:
        """The port, under both of its keys: the old one is kept for old readers."""
        return replace(self, connection_port=port, ssh_port=port)


# -- metastatic providers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lease(_Record):
    """What a metastatic provider notes of a backing node it holds. Times are seconds since 1970."""

    node_id: NodeId
    label: str = _key("label", _word, "")
    slots: int = _key("slots", _whole, 1)
    is_failed: bool = _key("failed", _flag, False)
    """It takes nobody in any more, and goes when it is empty."""
    launched_at: float = _key("launched", _number, 0.0)
    """When it was taken over."""
    used_at: float = _key("used", _number, 0.0)
    """When a slot of it was last given back; until then, when it was taken over."""

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, node_id: NodeId) -> Self:
        """Raises: RecordInvalidError."""
        return cls._read(path, data, node_id=node_id)

    def user_data(self, owner: str) -> str:
        """What the backing node's own record says of it: JSON, as text. Source: Nodepool 11, metastatic driver."""
        return json.dumps({
            "owner": owner, "label": self.label, "slots": self.slots, "failed": self.is_failed,
            "launched": self.launched_at,
        })  # fmt: skip

    @classmethod
    def from_user_data(cls, node: Node, owner: str) -> Self | None:
        """What the record of *node* says, if it is *owner*'s; None if it is not, or says nothing readable."""
        if not isinstance(node.user_data, str) or owner not in node.user_data:
            return None
        try:
            lease = cls._read(f"user_data of {node.id}", node.user_data.encode(), node_id=node.id)
        except RecordInvalidError:
            return None
        is_owners = lease.extra.get("owner") == owner
        return replace(lease, used_at=max(lease.used_at, lease.launched_at), extra={}) if is_owners else None


@dataclass(frozen=True, kw_only=True)
class Claim(_Record):
    """What a metastatic provider notes of a node of its own: which slot it has, if it has one yet."""

    node_id: NodeId = _key("node", _word)
    label: str = _key("label", _word, "")
    metadata: JsonObject = _key("metadata", _object)
    backing: NodeId | None = _key("backing_node", _text)
    slot: int | None = _key("slot", _whole_or_none)

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, node_id: NodeId) -> Self:
        """Raises: RecordInvalidError."""
        return cls._read(path, data, node_id=node_id, metadata={})

    @classmethod
    def from_node(cls, node: Node) -> Self | None:
        """What the record of *node* says of its slot; None if it has none. Source: Nodepool 11, metastatic driver."""
        data = node.driver_data
        if not isinstance(data, dict):
            return None
        try:
            claim = cls._read(f"driver_data of {node.id}", json.dumps(data).encode(), node_id=node.id, metadata={})
        except RecordInvalidError:
            return None
        return replace(claim, node_id=node.id, label=next(iter(node.type), ""), extra={}) if claim.is_placed else None

    @property
    def is_placed(self) -> bool:
        return self.backing is not None and self.slot is not None

    @property
    def driver_data(self) -> JsonObject:
        """For the node's own record. Source: Nodepool 11, metastatic driver."""
        return {
            "metadata": dict(self.metadata), "backing_node": self.backing, "slot": self.slot, "node": self.node_id,
        }  # fmt: skip


# -- components -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Component(_Record):
    """A process, or a part of one, that is alive as long as its znode exists. Keys are written sorted."""

    SORTED: ClassVar[bool] = True
    hostname: str = _key("hostname", _text, "")
    kind: str = _key("kind", _text, "")
    model_api: int = _key("model_api", _whole, 0)
    """Must be 0: every Nodepool process takes the minimum over all components and refuses to go below its own."""
    state: ComponentState = _key("state", ComponentState, ComponentState.STOPPED)
    version: str | None = _key("version", _text)

    @classmethod
    def from_bytes(cls, path: str, data: bytes) -> Self:
        """Raises: RecordInvalidError."""
        return cls._read(path, data)


@dataclass(frozen=True, kw_only=True)
class LauncherComponent(Component):
    kind: str = _key("kind", _text, "launcher")


@dataclass(frozen=True, kw_only=True)
class PoolRegistration(Component):
    """What one provider-pool tells its peers; ``id`` is the token it puts into ``declined_by``."""

    kind: str = _key("kind", _text, "pool")
    id: str | None = _key("id", _text)
    name: str | None = _key("name", _text)
    provider_name: str | None = _key("provider_name", _text)
    supported_labels: tuple[str, ...] = _key("supported_labels", _texts, ())
    priority: int = _key("priority", _whole, 100)
    paused: bool = _key("paused", _flag, False)


# -- our own, outside Nodepool's tree -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Presence(_Record):
    """What one nodelaunch process tells the others; ephemeral."""

    id: str = _key("id", _required_text, "")
    """Differs from process to process."""
    hostname: str = _key("hostname", _required_text, "")
    version: str | None = _key("version", _text)
    state: ComponentState = _key("state", ComponentState, ComponentState.RUNNING)
    min_ready: Mapping[str, float] | None = _key("min_ready", _amounts)
    """Label → how many nodes it would keep ready; labels without any are left out."""
    pools: tuple[str, ...] = _key("pools", _texts, ())
    """Ids of its pools, which it can be asked about."""

    @classmethod
    def from_bytes(cls, path: str, data: bytes) -> Self:
        """Raises: RecordInvalidError."""
        return cls._read(path, data)


@dataclass(frozen=True, kw_only=True)
class KnownPool(_Record):
    """What a pool offers, remembered while it is not registered, so that its return can be waited for."""

    provider: str
    pool: str
    labels: tuple[str, ...] = _key("labels", _texts, ())

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, names: tuple[str, str]) -> Self:
        """*names*: provider and pool, as `paths.known_pool_at` finds them in *path*. Raises: RecordInvalidError."""
        return cls._read(path, data, provider=names[0], pool=names[1])


def keeper_of(label: str, presences: Iterable[Presence]) -> Presence | None:
    """Which of the running processes keeps *label*'s nodes ready: all that would, agree on one without asking.

    Rendezvous hashing: when a process comes or goes, only the labels it gets or had change hands.
    """
    willing = [p for p in presences if p.state is ComponentState.RUNNING and (p.min_ready or {}).get(label, 0) > 0]
    return max(willing, key=lambda p: sha256(f"{label}\0{p.id}".encode()).digest(), default=None)


# -- images ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ImageBuild(_Record):
    """One build of a diskimage, written by a builder; we only read when it began and where it stands."""

    path: str
    image: str
    build_id: str
    state: ImageState = _key("state", ImageState, ImageState.BUILDING)
    state_time: float = _key("state_time", _number, 0.0)

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, parts: tuple[str, str], modified_at: float = 0.0) -> Self:
        """*parts*: image and build id, as `paths.build_at` finds them in *path*. Raises: RecordInvalidError."""
        image, build_id = parts
        build = cls._read(path, data, path=path, image=image, build_id=build_id, state=None, state_time=modified_at)
        if build.state is None:
            raise RecordInvalidError(path, "state: missing")
        return build


@dataclass(frozen=True, kw_only=True)
class ImageUpload(_Record):
    """One upload of a built image to one provider, written by a builder; we only read it."""

    path: str
    image: str
    build_id: str
    provider: str
    upload_id: str
    state: ImageState = _key("state", ImageState, ImageState.UPLOADING)
    state_time: float = _key("state_time", _number, 0.0)
    external_id: str | None = _key("external_id", _text)
    external_name: str | None = _key("external_name", _text)
    format: str | None = _key("format", _text)
    username: str | None = _key("username", _text, "zuul")
    python_path: str | None = _key("python_path", _text, "/usr/bin/python2")
    shell_type: str | None = _key("shell_type", _text)

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, parts: tuple[str, str, str, str], modified_at: float = 0.0) -> Self:
        """*parts*: image, build id, provider and upload id, as `paths.upload_at` finds them in *path*.

        Raises: RecordInvalidError.
        """
        image, build_id, provider, upload_id = parts
        upload = cls._read(
            path, data, path=path, image=image, build_id=build_id, provider=provider, upload_id=upload_id,
            state=None, state_time=modified_at,
        )  # fmt: skip
        if upload.state is None:
            raise RecordInvalidError(path, "state: missing")
        return upload
