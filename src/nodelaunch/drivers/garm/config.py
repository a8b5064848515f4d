"""Keys of ``driver: garm``, with the options that a provider of interface v0.1.1 describes."""

from __future__ import annotations

import base64
import os
import tomllib
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nodelaunch.config.models import (
    TOP_LABELS,
    AnyCount,
    Count,
    LaunchingProviderConfig,
    LocalPath,
    Model,
    PoolConfig,
    PoolLabel,
    Port,
    ProviderConfig,
    Reference,
    Seconds,
    Text,
    Texts,
    Unique,
)
from nodelaunch.driverhost.process.options import options_model
from nodelaunch.drivers.garm.asking import OptionSchemas, schemas_of
from nodelaunch.drivers.garm.interface import Version
from nodelaunch.drivers.garm.naming import MAX_NAME, controller_id, instance_name
from nodelaunch.protocol.driver import METADATA_NODE_ID, METADATA_POOL, METADATA_PROVIDER, InstanceSpec
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits, Usage

INSTALL_SCRIPT = "runner_install_template"
"""Extra spec that replaces the setup script of a machine. Source: garm-provider-common, cloudconfig."""


STRICT: Mapping[str, Any] = {"additionalProperties": False}
"""Schema without keys: the model's own fields are the only keys."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise PydanticCustomError("not_absolute", "must be an absolute path, as GARM wants it")
    return path


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise PydanticCustomError("no_uuid", "must be a UUID") from None


AbsolutePath = Annotated[LocalPath, AfterValidator(_absolute)]


class GarmLabel(PoolLabel):
    image: Text
    """The provider's name of the image; likewise for the flavor."""
    flavor: Text
    os_type: Literal["linux", "windows"] = "linux"
    os_arch: Literal["amd64", "i386", "arm64", "arm"] = "amd64"
    extra_specs: dict[StrictStr, Any] = Field(default_factory=dict)
    """The provider's own options. A provider of v0.1.1 supplies the schema to check them."""
    install_script: Text | None = None
    """Script that runs on the machine instead of the one that installs a GitHub runner."""
    ssh_keys: Texts = ()
    """Public keys that may log in, as ``<type> <base64>``."""
    username: Text = "runner"
    """Default: GARM's user."""
    connection_type: Text = "ssh"
    connection_port: Port = 22
    python_path: Text = "auto"
    shell_type: Text | None = None
    host_key_checking: StrictBool = True
    cores: Count | None = None
    """Cores of one node, for quota; GARM itself knows no sizes."""
    ram: Count | None = None
    """MiB."""

    def specs(self) -> dict[str, Any]:
        """Return the extra specs in the form that the provider receives."""
        own: Any = self.extra_specs
        told = own.model_dump(mode="json", by_alias=True, exclude_unset=True) if isinstance(own, BaseModel) else own
        if self.install_script is None:
            return dict(told)
        return {**told, INSTALL_SCRIPT: base64.b64encode(self.install_script.encode()).decode()}

    def usage(self) -> Usage:
        return Usage({INSTANCES: 1, CORES: self.cores or 0, RAM: self.ram or 0})


class GarmPool(PoolConfig):
    labels: tuple[GarmLabel, ...] = ()
    max_cores: AnyCount | None = None
    max_ram: AnyCount | None = None
    """MiB."""
    use_internal_ip: StrictBool = False
    """If true, nodes are connected to by their private address."""

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label.name for label in self.labels))

    def limits(self) -> Limits:
        return Limits({INSTANCES: self.max_servers, CORES: self.max_cores, RAM: self.max_ram})


class GarmProvider(LaunchingProviderConfig):
    must_differ: ClassVar[tuple[Unique, ...]] = (
        *LaunchingProviderConfig.must_differ,
        Unique("label", "labels[]", scope="pools[]"),
    )
    must_exist: ClassVar[tuple[Reference, ...]] = (Reference("label", "pools[].labels[].name", TOP_LABELS),)

    executable: AbsolutePath
    config_file: AbsolutePath = Path(os.devnull)
    """The provider's own configuration file."""
    interface_version: Version = Version.V010
    controller_id: Annotated[Text, AfterValidator(_uuid)] | None = None
    """Default: a UUID derived from the provider's name."""
    call_timeout: Seconds = 300.0
    """Time limit of each command except create, which has ``launch-timeout``."""
    poll_interval: Annotated[Seconds, Field(gt=0)] = 2.0
    """Seconds between two checks of an instance that boots or is being deleted."""
    max_processes: Annotated[StrictInt, Field(ge=1)] = 8
    """Largest number of commands that run at once."""
    pools: tuple[GarmPool, ...] = ()

    @property
    def controller(self) -> str:
        return self.controller_id or controller_id(self.name)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.config_file,)

    @model_validator(mode="after")
    def _names_fit(self) -> GarmProvider:
        for pool in self.pools:
            node_id = "0" * 10
            metadata = {METADATA_NODE_ID: node_id, METADATA_POOL: pool.name, METADATA_PROVIDER: self.name}
            length = len(instance_name(InstanceSpec(node_id, "", pool.name, "", metadata, attempt=99)))
            if length > MAX_NAME:
                raise PydanticCustomError(
                    "names_too_long",
                    "each instance's name contains the names of the provider and its pool {pool}, and would be {much} "
                    "characters too long; shorten one of them (x and characters outside a-z0-9 count three times)",
                    {"pool": pool.name, "much": length - MAX_NAME},
                )
        return self


def model_for(item: Mapping[str, Any]) -> type[ProviderConfig]:
    """Return the model for the provider *item*, with the options that its executable describes.

    Only providers of v0.1.1 whose executable exists are asked. Blocks meanwhile. Raises: DriverNotFoundError.
    """
    executable, config_file = item.get("executable"), item.get("config-file", os.devnull)
    passed = item.get("pass-environment", ())
    if item.get("interface-version") != Version.V011 or not (
        isinstance(executable, str) and isinstance(config_file, str)
    ):
        return GarmProvider
    if not os.access(os.path.expanduser(config_file), os.R_OK):  # noqa: PTH111  there may be no home directory
        return _model(None, None)
    return _model(*schemas_of(executable, config_file, tuple(passed) if isinstance(passed, list) else ()))


@lru_cache(maxsize=64)
def _model(config: str | None, extra_specs: str | None) -> type[GarmProvider]:
    """Return the model for the JSON Schemas *config* and *extra_specs*, given as text.

    Equal schemas give the same class, so a configuration that is read again compares equal.
    """
    schemas = OptionSchemas.read(config, extra_specs)
    label = GarmLabel
    if schemas.extra_specs is not None:
        specs = options_model("ExtraSpecs", schemas.extra_specs, Model)
        label = options_model("Label", STRICT, GarmLabel, {"extra_specs": (specs, Field(default_factory=specs))})
    pool = options_model("Pool", STRICT, GarmPool, {"labels": (tuple[label, ...], ())})  # type: ignore[valid-type]
    file_model = None if schemas.config is None else options_model("ConfigFile", schemas.config, Model)
    path = Annotated[AbsolutePath, AfterValidator(lambda path: _checked_file(path, file_model))]
    fields: dict[str, Any] = {"pools": (tuple[pool, ...], ()), "config_file": (path, Path(os.devnull))}  # type: ignore[valid-type]
    return options_model("Provider", STRICT, GarmProvider, fields)


def _checked_file(path: Path, model: type[Model] | None) -> Path:
    """Return *path* if the file's content is valid for *model*. Errors never show values, because some are secret."""
    try:
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise PydanticCustomError("file_unreadable", "the file can't be read: {reason}", {"reason": reason}) from None
    if model is None or (path.suffix and path.suffix != ".toml"):
        return path
    try:
        model.model_validate(tomllib.loads(content))
    except tomllib.TOMLDecodeError as error:
        raise PydanticCustomError("no_toml", "the file is no TOML: {reason}", {"reason": str(error)}) from None
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors(include_url=False, include_input=False)
        )
        raise PydanticCustomError("file_wrong", "in the file, {wrong}", {"wrong": wrong}) from None
    return path
