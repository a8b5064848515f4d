"""The models of the configuration: frozen pydantic models with kebab-case keys that refuse unknown keys.

The models check single values and single mappings. Rules across mappings are declared here, as `Unique`, `Alike` and
`Reference`, and checked in config/file.py, which knows the position of each value. A driver's own keys are in its
package, as subclasses of `ProviderConfig` and `PoolConfig`.
Source of names, defaults and units: Nodepool 11.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    SerializeAsAny,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from nodelaunch.folders import store_folder
from nodelaunch.protocol.access import Allowed
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits

VOLUMES, VOLUME_GB = "volumes", "volume-gb"
DEFAULT_DRIVER = "openstack"
"""The driver of a provider that names none, unless its name begins with `FAKE_PREFIX`. Source: Nodepool 11."""
FAKE_PREFIX, FAKE_DRIVER = "fake", "fake"

Place = tuple[str | int, ...]
"""The path to a value in a file's data: keys and list indexes."""


# -- kinds of values ------------------------------------------------------------------------------------------------


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise PydanticCustomError("no_home", "the home directory for ~ is not known") from None


def _path_part(name: str) -> str:
    if "/" in name or name in (".", "..") or not name.isprintable():
        raise PydanticCustomError(
            "not_a_path_part", "must not be '.' or '..', nor have a slash or line break: it becomes part of a path"
        )
    return name


Text = Annotated[StrictStr, Field(min_length=1)]
Name = Annotated[Text, AfterValidator(_path_part), Field(json_schema_extra={"pattern": r"^(?!\.{1,2}$)[^/\n]+$"})]
"""A name that becomes part of a path in the store."""
Count = Annotated[StrictInt, Field(ge=0)]
AnyCount = StrictInt
"""A number that may be negative: for Nodepool, zero and below mean none."""
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Seconds = Annotated[StrictFloat, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[StrictFloat, Field(ge=0, le=1)]
Texts = tuple[Text, ...]
OneOrMoreTexts = Annotated[
    tuple[Text, ...],
    Field(min_length=1),
    BeforeValidator(_one_or_more, json_schema_input_type=Text | Annotated[tuple[Text, ...], Field(min_length=1)]),
]


def _somebody(value: Any) -> Any:
    """Refuse an empty list: it could be read as "no tenant" or as "every tenant"."""
    if value is None or value in ([], ()):
        raise PydanticCustomError("nobody_allowed", "names no tenant; leave the key out to allow every tenant")
    return value


SomeTexts = Annotated[tuple[Text, ...], Field(min_length=1)]
Tenants = Annotated[SomeTexts | None, BeforeValidator(_somebody, json_schema_input_type=SomeTexts)]
"""The tenants that may use a pool, label or machine; None if the key is left out: all tenants."""
Attributes = dict[StrictStr, Any]
LocalPath = Annotated[Path, AfterValidator(_expanded)]
"""A path: ``~`` is the user's home; a relative path starts at the working directory of the process."""


class Model(BaseModel):
    """Base of all models of the configuration."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Return the fields for ``repr``, without secrets."""
        kind = type(self)
        for name, value in super().__repr_args__():
            info = kind.model_fields.get(name or "")
            of_others = kind.model_config.get("json_schema_extra") if info is None else None
            is_shown = not (_is_confidential(info) or _is_confidential(of_others))
            yield name, value if is_shown else SecretStr("hidden")


def _is_confidential(said: Any) -> bool:
    """Return True if *said*, the schema of a field or of a model's extra fields, marks it as secret.

    Nested models hide their own secrets.
    """
    if isinstance(said, dict):
        inner = said.get("additionalProperties")
        return bool(said.get("writeOnly") or said.get("format") == "password" or _is_confidential(inner))
    if isinstance(said, FieldInfo):
        return any(map(_is_confidential, (said.json_schema_extra, said.annotation, *said.metadata)))
    return any(map(_is_confidential, get_args(said)))


# -- rules across mappings ------------------------------------------------------------------------------------------
# Patterns name places: keys joined by dots, ``[]`` behind a key for each item of its list (or its one text, where a
# single text may stand for a list). ``pools[].labels[].name`` is the name of each label of each pool.


@dataclass(frozen=True, slots=True)
class Unique:
    """Within each *scope*, the *items* have to differ in *keys*; without keys, the items themselves have to differ.

    A key that an item leaves out has its value in *defaults*.
    """

    what: str
    items: str
    keys: tuple[str, ...] = ("name",)
    scope: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reference:
    """Each value *at* has to be a value that *to* names; *to* starts with a slash if it is a path from the top of the
    file."""

    what: str
    at: str
    to: str


@dataclass(frozen=True, slots=True)
class Alike:
    """*Items* with the same value of the key *by* have to have the same values of *keys*.

    A key that an item leaves out has its default, which is given with the key.
    """

    items: str
    by: str
    keys: Mapping[str, Any]


TOP_LABELS: Final = "/labels[].name"
"""The target of a driver's references to labels; these references also say which labels a provider offers."""
TOP_DISKIMAGES: Final = "/diskimages[].name"


# -- the store and the web ------------------------------------------------------------------------------------------


def _bare_host(host: str) -> str:
    name, _, port = host.rpartition(":")
    if name and ":" not in name and port.isdigit():
        raise PydanticCustomError("host_with_port", "give host and port as two keys: host: ..., port: ...")
    return host.removeprefix("[").removesuffix("]")


def _znode_path(path: str) -> str:
    parts = path.strip("/").split("/")
    if path.strip("/") and any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise PydanticCustomError("not_a_znode_path", "must be a path such as /zuul, without empty, '.' or '..' parts")
    return path


class ZooKeeperServer(Model):
    host: Annotated[Text, AfterValidator(_bare_host)]
    """Name or address; an IPv6 address with or without brackets."""
    port: Port = 2281
    """Port; the default is the TLS port, as in Nodepool's code."""
    chroot: Annotated[StrictStr, AfterValidator(_znode_path)] = ""


class ZooKeeperTls(Model):
    """Paths of PEM files; mutual TLS needs all three."""

    cert: Text
    key: Text
    ca: Text
    check_host_name: StrictBool = False
    """True: a server's certificate has to name the configured host."""


def _no_colon(name: str) -> str:
    if ":" in name:
        raise PydanticCustomError("colon_in_user", "must not have a colon: it ends the user's name in ZooKeeper")
    return name


class ZooKeeperAuth(Model):
    """User and password for ZooKeeper's scheme ``digest``; not needed with TLS certificates."""

    user: Annotated[Text, AfterValidator(_no_colon)]
    password: Annotated[SecretStr, Field(min_length=1)] | None = None
    password_file: Text | None = None
    """A file whose first line is the password."""

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if (self.password is None) == (self.password_file is None):
            raise PydanticCustomError("one_password", "give one of password and password-file")
        return self


class ZooKeeperAcl(Model):
    """An entry of the access control list of each znode that nodelaunch creates."""

    scheme: Literal["auth", "digest", "x509", "ip", "sasl", "world"]
    """``auth``: this launcher's own identity, from its certificate and from `ZooKeeperAuth`."""
    id: StrictStr = ""
    permissions: Annotated[StrictStr, Field(pattern=r"^[cdrwa]+$")] = "cdrwa"
    """c: create children, d: delete children, r: read, w: write, a: administer."""

    @model_validator(mode="after")
    def _has_its_id(self) -> Self:
        if (self.scheme == "auth") != (not self.id):
            wrong = "takes no id: it stands for this launcher" if self.scheme == "auth" else "needs an id"
            raise PydanticCustomError("acl_id", "scheme {scheme} {wrong}", {"scheme": self.scheme, "wrong": wrong})
        return self


def default_store_path() -> Path:
    """Return the default path of the embedded store; for a user without a home, a path in /var/lib."""
    return store_folder() / "store.sqlite"


def _listening(address: str) -> str:
    """Check the form of an address; a name is resolved when the launcher starts."""
    if any(character in address for character in "/[] "):
        is_right = False
    elif ":" in address:
        try:
            is_right = bool(IPv6Address(address))
        except ValueError:
            is_right = False
    else:
        is_right = True
    if not is_right:
        raise PydanticCustomError(
            "no_listen_address",
            "has to be an address or a name of this machine, such as 127.0.0.1 or ::1; the port goes to the key 'port'",
        )
    return address


ListenAddress = Annotated[Text, AfterValidator(_listening)]


class EmbeddedStoreConfig(Model):
    """The embedded store: one SQLite file, used if no ZooKeeper servers are given."""

    path: LocalPath = Field(default_factory=default_store_path)


class WebappConfig(Model):
    port: Annotated[StrictInt, Field(ge=0, le=65535)] = 8005
    listen_address: ListenAddress = Field(default="0.0.0.0", alias="listen_address")  # noqa: S104  Nodepool's default
    token_file: Text | None = None
    """A file with the tokens for requests and actions over HTTP, one per line; without it, these are disabled."""


# -- labels, tenants, images ----------------------------------------------------------------------------------------


class LabelConfig(Model):
    name: Text
    min_ready: AnyCount = 0
    """Number of ready, unallocated nodes to keep, over all providers; zero and below: none."""
    max_ready_age: Count = 0
    """Seconds after which an unused ready node is deleted; 0: never."""


class TenantLimits(Model):
    """The limits of one tenant; other keys are names of further resources."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Count]

    tenant_name: Text
    max_servers: Count | None = None
    max_cores: Count | None = None
    max_ram: Count | None = None
    """MiB."""
    max_volumes: Count | None = None
    max_volume_gb: Count | None = None

    def limits(self) -> Limits:
        named = {INSTANCES: self.max_servers, CORES: self.max_cores, RAM: self.max_ram}
        volumes = {VOLUMES: self.max_volumes, VOLUME_GB: self.max_volume_gb}
        return Limits({**(self.__pydantic_extra__ or {}), **named, **volumes})


def _release(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class DiskImageConfig(Model):
    """An image of a builder. A launcher reads its names and its login; the other keys are for the builder.

    In a `Config`, an image inherits the keys it leaves out from its parent; elements and env-vars add to the parent's.
    """

    name: Name
    abstract: StrictBool = False
    """True: the image only serves as a parent of other images."""
    parent: Text | None = None
    username: Text = "zuul"
    python_path: Text = "auto"
    shell_type: Text | None = None
    elements: Texts = ()
    env_vars: dict[StrictStr, SecretStr] = Field(default_factory=dict)
    formats: Texts = ()
    keep_formats: Texts = ()
    delete_after_upload: StrictBool = False
    pause: StrictBool = False
    release: Annotated[Text | None, BeforeValidator(_release, json_schema_input_type=Text | int | None)] = None
    rebuild_age: Count = 86400
    """Seconds."""
    build_timeout: Count = 28800
    """Seconds."""
    dib_cmd: Text = "disk-image-create"
    metadata: Attributes = Field(default_factory=dict)

    def below(self, parent: DiskImageConfig) -> DiskImageConfig:
        """Return this image with the keys that it inherits from *parent*."""
        own = {"name", "abstract", "parent"}
        taken = {name: getattr(parent, name) for name in parent.model_fields_set - self.model_fields_set - own}
        elements, env_vars = parent.elements + self.elements, {**parent.env_vars, **self.env_vars}
        joined = {name: value for name, value in (("elements", elements), ("env_vars", env_vars)) if value}
        return self.model_copy(update={**taken, **joined})


@dataclass(frozen=True, slots=True)
class DiskImageLogin:
    """The default login for a machine of an image."""

    username: str = "zuul"
    python_path: str = "auto"
    shell_type: str | None = None


# -- providers and pools --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launching:
    """The retries and timeouts of a provider's launches. ``retries`` is the total number of attempts."""

    retries: int = 3
    timeout_s: float = 3600.0
    """The time for one attempt, from the first call to the cloud until the host keys are known."""
    boot_timeout_s: float = 60.0
    """The time for a running machine to answer on its connection port."""


def allowed(tenants: tuple[str, ...] | None) -> Allowed:
    return None if tenants is None else frozenset(tenants)


class PoolLabel(Model):
    """The keys of a pool's label that is a mapping."""

    name: Text
    allowed_tenants: Tenants = None
    """Tenants whose requests may use the label in this pool; left out: all that may use the pool."""


class PoolConfig(Model):
    """The keys that the pools of every driver have."""

    name: Name
    max_servers: AnyCount | None = None
    """Most nodes of the pool; zero and below: the pool declines every request."""
    priority: StrictInt | None = None
    """Pools with smaller numbers serve requests first; default: the provider's priority."""
    node_attributes: Attributes | None = None
    """Attributes that are copied into each node's record."""
    allowed_tenants: Tenants = None
    """Tenants whose requests may use the pool; left out: all, and requests without a tenant."""

    @property
    def tenants(self) -> Allowed:
        """Return the tenants that may use the pool."""
        return allowed(self.allowed_tenants)

    def tenants_of(self, label: str) -> Allowed:
        """Return the tenants of the pool that may use *label* in it."""
        labels: tuple[object, ...] = getattr(self, "labels", ())
        found = (each for each in labels if isinstance(each, PoolLabel) and each.name == label)
        return next((allowed(each.allowed_tenants) for each in found), None)

    @property
    def machine_tenants(self) -> Mapping[tuple[str, str | None, int], Allowed]:
        """Return the tenants that may use each machine with allowed-tenants of its own, by name, user and connection
        port; only drivers of existing machines have any."""
        return {}

    @property
    def label_names(self) -> tuple[str, ...]:
        """Return the labels that the pool offers, each once."""
        return ()

    def limits(self) -> Limits:
        return Limits({INSTANCES: self.max_servers})

    @property
    def ignores_provider_quota(self) -> bool:
        return False

    @property
    def zones(self) -> tuple[str, ...]:
        """Return the availability zones to choose from; empty: the driver chooses."""
        return ()

    @property
    def zoning(self) -> Literal["together", "spread", "none"]:
        """Return how zones are chosen: one for all nodes of a request, one for each node at random, or none."""
        return "together"


class ProviderConfig(Model):
    """The keys that the providers of every driver have. A driver's subclass narrows ``pools``, and adds rules."""

    must_differ: ClassVar[tuple[Unique, ...]] = (Unique("pool", "pools[]"),)
    """Rules whose paths start at the provider's mapping."""
    must_exist: ClassVar[tuple[Reference, ...]] = ()
    """Rules whose paths start at the provider's mapping. Name the places of labels here, with `TOP_LABELS`."""
    must_agree: ClassVar[tuple[Alike, ...]] = ()
    """Rules whose paths start at the provider's mapping."""
    old_names: ClassVar[Mapping[str, str]] = {}
    """Patterns of old keys, which are accepted with a warning, and their new names."""

    name: Name
    driver: Text
    max_concurrency: StrictInt = -1
    """Most launches at the same time; negative: no limit. 0: the provider takes no requests, and declines none."""
    priority: StrictInt | None = None
    isolation: Literal["inline", "process"] = "inline"
    """inline: a driver written in Python runs in the launcher; process: it runs in its own process."""
    pass_environment: Texts = ()
    """Names of further environment variables that a driver's process gets, besides a few standard ones."""
    pools: tuple[PoolConfig, ...] = ()

    @property
    def launching(self) -> Launching:
        return Launching()

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that are part of the provider's configuration: when one changes, the driver restarts."""
        return ()

    def pool_priority(self, pool: PoolConfig) -> int:
        """Return the pool's priority, or the provider's, or 100."""
        return next((p for p in (pool.priority, self.priority) if p is not None), 100)


class LaunchingProviderConfig(ProviderConfig):
    """A provider whose driver creates its machines."""

    launch_retries: Annotated[StrictInt, Field(ge=1)] = 3
    """Total number of attempts to launch a node."""
    launch_timeout: Seconds = 3600.0
    boot_timeout: Seconds = 60.0

    @property
    def launching(self) -> Launching:
        return Launching(self.launch_retries, self.launch_timeout, self.boot_timeout)


# -- the whole ------------------------------------------------------------------------------------------------------


class StoreConfig(Model):
    """The store part of a configuration: the address of the store, and its authentication."""

    must_differ: ClassVar[tuple[Unique, ...]] = (
        Unique("server", "zookeeper-servers[]", ("host", "port"), defaults={"port": 2281}),
    )

    zookeeper_servers: tuple[ZooKeeperServer, ...] = ()
    """The ZooKeeper servers; empty: the embedded store is used."""
    zookeeper_tls: ZooKeeperTls | None = None
    zookeeper_auth: ZooKeeperAuth | None = None
    zookeeper_acl: tuple[ZooKeeperAcl, ...] = ()
    """Access control list of new znodes; empty: every client may do everything, as with Zuul and Nodepool."""
    zookeeper_timeout: Annotated[StrictFloat, Field(ge=1, allow_inf_nan=False)] = 10.0
    """Session timeout, seconds."""
    embedded_store: EmbeddedStoreConfig = Field(default_factory=EmbeddedStoreConfig)

    @property
    def chroot(self) -> str:
        """Return the chroot of the ensemble with a leading slash, or an empty text."""
        return next(
            (f"/{path}" for path in (server.chroot.strip("/") for server in self.zookeeper_servers) if path), ""
        )


def _own_webapp() -> WebappConfig:
    return WebappConfig(listen_address="127.0.0.1")


class Config(StoreConfig):
    """A checked configuration. `nodelaunch.load_config` makes it, and checks the rules across its mappings."""

    must_differ: ClassVar[tuple[Unique, ...]] = (
        Unique("label", "labels[]"),
        Unique("provider", "providers[]"),
        Unique("diskimage", "diskimages[]"),
        Unique("tenant", "tenant-resource-limits[]", ("tenant-name",)),
        *StoreConfig.must_differ,
    )
    must_exist: ClassVar[tuple[Reference, ...]] = (Reference("diskimage", "diskimages[].parent", TOP_DISKIMAGES),)
    old_names: ClassVar[Mapping[str, str]] = {"webapp.listen-address": "listen_address"}

    labels: tuple[LabelConfig, ...] = ()
    providers: tuple[SerializeAsAny[ProviderConfig], ...] = ()
    diskimages: tuple[DiskImageConfig, ...] = ()
    tenant_resource_limits: tuple[TenantLimits, ...] = ()
    max_hold_age: AnyCount = 0
    """Most seconds that a node may be held; zero and below: no limit."""
    webapp: WebappConfig = Field(default_factory=_own_webapp)
    """HTTP; left out: HTTP listens on this machine only. Nodepool's default applies if the key is given."""
    elements_dir: StrictStr | None = None
    images_dir: StrictStr | None = None
    build_log_dir: StrictStr | None = None
    build_log_retention: Count = 7

    @field_validator("diskimages")
    @classmethod
    def _with_parents(cls, images: tuple[DiskImageConfig, ...]) -> tuple[DiskImageConfig, ...]:
        """Return each image with the keys of its ancestors. A missing parent, or a cycle, ends the chain."""
        by_name = {image.name: image for image in images}
        return tuple(_inherited(image, by_name) for image in images)

    def label(self, name: str) -> LabelConfig | None:
        return next((label for label in self.labels if label.name == name), None)

    def provider(self, name: str) -> ProviderConfig | None:
        return next((provider for provider in self.providers if provider.name == name), None)


def _inherited(image: DiskImageConfig, by_name: Mapping[str, DiskImageConfig]) -> DiskImageConfig:
    line = [image]
    while (parent := by_name.get(line[-1].parent or "")) is not None and parent not in line:
        line.append(parent)
    result = line.pop()
    while line:
        result = line.pop().below(result)
    return result
