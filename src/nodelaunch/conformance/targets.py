"""Finds the driver that ``nodelaunch driver check TARGET`` names: the name of a driver, an executable, or a socket.

The configuration of its provider comes from a YAML file, or is the example that comes with the driver.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from nodelaunch.config.models import DiskImageLogin, Place, ProviderConfig
from nodelaunch.config.positions import Source, read_source
from nodelaunch.config.secrets import secret_texts
from nodelaunch.conformance.complaints import refuse
from nodelaunch.conformance.harness import DriverUnderTest
from nodelaunch.conformance.probe import DriverProgram
from nodelaunch.driverhost.executables import find_executable, socket_of
from nodelaunch.driverhost.process.child import Command
from nodelaunch.driverhost.process.driver import ProcessDriver
from nodelaunch.driverhost.process.options import OpenProvider
from nodelaunch.driverhost.process.plugin import PYTHON_ENVIRONMENT, describe, isolated
from nodelaunch.driverhost.schemas import capabilities_of, schemas_of
from nodelaunch.driverhost.wire.messages import LOCAL_PROCESSES, Schemas
from nodelaunch.drivers.plugin import DriverNotFoundError, DriverPlugin
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.errors import ConfigError, NodelaunchError
from nodelaunch.protocol.driver import DriverContext, HostScanner

PROVIDER: Final = "conformance"
"""Name of a provider whose configuration has no name."""
FOLDER: Final = "{folder}"
UNDESCRIBED_S: Final = 20.0
"""Deadline of calls to a driver that failed to describe itself, and may never answer."""
SHORTEST_SECRET: Final = 6
"""Characters of the shortest secret to look for: a shorter one may occur in any text by chance."""


class TargetError(NodelaunchError):
    """The driver can't be checked as asked; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """The driver to check, and how to check it."""

    target: str
    """Name of a driver, path of an executable, or ``unix:`` and the path of a socket."""
    config: str | None = None
    """YAML file with a ``provider``, or a whole configuration with ``providers``."""
    provider: str | None = None
    """Name of the provider, if there are several."""
    pool: str | None = None
    label: str | None = None
    isolation: str | None = None
    concurrency: int = 3
    deadline_s: float = 600.0


@dataclass(frozen=True, slots=True)
class _Driver:
    plugin: DriverPlugin
    command: Command | None
    """How to start the driver in a separate process; None: it runs in this process."""
    schemas: Schemas
    has_local_processes: bool = False


def driver_under_test(wanted: CheckRequest, folder: Path, scanner: HostScanner) -> DriverUnderTest:
    """Return the driver to check; with its own example its nodes are in *folder*. Starts executables; blocks.

    Raises: TargetError, DriverNotFoundError, ConfigError with every problem of the configuration.
    """
    _require_listener(wanted)
    try:
        driver = _driver(wanted)
    except DriverNotFoundError:
        command = find_executable(wanted.target)
        if command is None or wanted.target in DriverRegistry().names:
            raise
        return _undescribed(command, wanted, DriverContext(scanner))
    source = _source(wanted, driver.plugin, folder)
    place, content = _section(source, wanted)
    content = {**content, "name": content.get("name") or PROVIDER, "driver": wanted.target}
    config = _validated(driver.plugin, source, place, content)
    pool, label = _pool_and_label(config, wanted)
    context = DriverContext(scanner, diskimages=_images(source))
    plugin = driver.plugin if driver.command is None or driver.plugin.is_process else isolated(driver.plugin)
    program = None
    if driver.command is not None:
        named = tuple(config.pass_environment)
        command = replace(driver.command, environment=(*driver.command.environment, *named))
        program = DriverProgram(
            command, content, has_local_processes=driver.has_local_processes, is_remote=_is_remote(wanted)
        )
    return DriverUnderTest(
        name=driver.plugin.name, open=partial(plugin.open, config, context), pool=pool, label=label,
        concurrency=wanted.concurrency, deadline_s=wanted.deadline_s, program=program,
        secrets=tuple(_secrets(driver.schemas, content)),
    )  # fmt: skip


# -- the driver --------------------------------------------------------------------------------------------------------


def _is_remote(wanted: CheckRequest) -> bool:
    return socket_of(wanted.target) is not None


def _require_listener(wanted: CheckRequest) -> None:
    """Raise TargetError if the target is a socket at which no driver listens."""
    path = socket_of(wanted.target)
    if path is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        try:
            trying.connect(str(path))
        except OSError as error:
            reason = error.strerror or error
            raise TargetError(
                f"no driver listens at {path}: {reason}; start it there, with --listen {path} if an SDK made it"
            ) from None


def _driver(wanted: CheckRequest) -> _Driver:
    registry = DriverRegistry()
    plugin = registry.get(wanted.target)
    if plugin.is_process:
        if wanted.isolation == "inline":
            what = "listens at a socket" if _is_remote(wanted) else "is an executable"
            raise TargetError(f"driver {plugin.name} {what}; it can't run inline")
        command = find_executable(wanted.target)
        if command is None:
            raise DriverNotFoundError(f"there is no executable {wanted.target}")
        identity = describe(command)
        return _Driver(plugin, command, identity.schemas, LOCAL_PROCESSES in identity.capabilities)
    if plugin.needs_cluster:
        raise TargetError(
            f"driver {plugin.name} needs the launcher's store, which the kit does not provide; "
            "the driver's own tests check it"
        )
    command = None
    if wanted.isolation == "process":
        argv = (sys.executable, "-m", "nodelaunch.sdk", plugin.name)
        command = Command(plugin.name, argv, environment=PYTHON_ENVIRONMENT)
    return _Driver(plugin, command, schemas_of(plugin.config_model), LOCAL_PROCESSES in capabilities_of(plugin))


def _undescribed(command: Command, wanted: CheckRequest, context: DriverContext) -> DriverUnderTest:
    """Return the driver of an executable that failed to describe itself: the first checks report the fault.

    Its configuration, if any, is not validated.
    """
    content: Mapping[str, Any] = {}
    if wanted.config is not None:
        source = read_source(wanted.config, os.environ)
        if source.problems:
            raise ConfigError(source.problems)
        _, content = _section(source, wanted)
    config = OpenProvider(name=PROVIDER, driver=wanted.target)
    return DriverUnderTest(
        name=command.name, open=partial(ProcessDriver, command, config, context), pool=wanted.pool or "none",
        label=wanted.label or "none", deadline_s=min(wanted.deadline_s, UNDESCRIBED_S),
        program=DriverProgram(
            command, {**content, "name": PROVIDER, "driver": wanted.target}, is_remote=_is_remote(wanted)
        ),
    )  # fmt: skip


# -- its configuration -------------------------------------------------------------------------------------------------


def _source(wanted: CheckRequest, plugin: DriverPlugin, folder: Path) -> Source:
    """Return the configuration file, or the driver's example if there is no file. Raises: ConfigError, TargetError."""
    if wanted.config is not None:
        source = read_source(wanted.config, os.environ)
        if source.problems:
            raise ConfigError(source.problems)
        return source
    if plugin.example is None:
        raise TargetError(
            f"driver {plugin.name} has no example configuration; "
            "name a YAML file with a 'provider' for the driver: --config FILE"
        )
    return Source(f"the example of driver {plugin.name}", data={"provider": filled_in(plugin.example, folder)})


def filled_in(example: Any, folder: Path) -> Any:
    """Return *example* with *folder* in place of ``{folder}``."""
    if isinstance(example, str):
        return example.replace(FOLDER, str(folder))
    if isinstance(example, Mapping):
        return {key: filled_in(value, folder) for key, value in example.items()}
    return [filled_in(each, folder) for each in example] if isinstance(example, (list, tuple)) else example


def _section(source: Source, wanted: CheckRequest) -> tuple[Place, Mapping[str, Any]]:
    """Return the place of the provider's mapping, and the mapping. Raises: TargetError."""
    data = source.data or {}
    single = data.get("provider")
    several = data.get("providers")
    sections: dict[Place, Any] = {("provider",): single} if isinstance(single, dict) else {}
    if isinstance(several, list):
        sections.update({("providers", index): each for index, each in enumerate(several) if isinstance(each, dict)})
    names = [str(each.get("name", PROVIDER)) for each in sections.values()]
    if wanted.provider is not None:
        sections = {place: each for place, each in sections.items() if each.get("name") == wanted.provider}
    elif len(sections) > 1:
        sections = {place: each for place, each in sections.items() if each.get("driver") == wanted.target}
    if len(sections) == 1:
        return next(iter(sections.items()))
    if not names:
        raise TargetError(f"{source.path}: the file has no 'provider', a mapping of the provider's options")
    what = f"no provider {wanted.provider!r}" if wanted.provider else f"not exactly one provider of {wanted.target}"
    raise TargetError(f"{source.path}: {what}; choose one of {', '.join(names)} with --provider")


def _validated(plugin: DriverPlugin, source: Source, place: Place, content: Mapping[str, Any]) -> ProviderConfig:
    """Return the provider's configuration as the driver's model. Raises: ConfigError."""
    try:
        return plugin.config_model.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        refuse(source, place, error)


def _pool_and_label(config: ProviderConfig, wanted: CheckRequest) -> tuple[str, str]:
    """Return the requested pool and label, or the first ones. Raises: TargetError."""
    offered = [(pool.name, label) for pool in config.pools for label in _labels(pool)]
    for pool, label in offered:
        if wanted.pool in (None, pool) and wanted.label in (None, label):
            return pool, label
    asked = " ".join(f"--{what} {name}" for what, name in (("pool", wanted.pool), ("label", wanted.label)) if name)
    known = ", ".join(f"{pool}/{label}" for pool, label in offered) or "none"
    raise TargetError(f"the provider has no such pool and label ({asked or 'any'}); it has: {known}")


def _labels(pool: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = tuple(pool.label_names)
    return found or tuple(dict.fromkeys(label for node in getattr(pool, "nodes", ()) for label in node.labels))


def _images(source: Source) -> dict[str, DiskImageLogin]:
    images = (source.data or {}).get("diskimages", ())
    known = [each for each in images if isinstance(each, dict) and isinstance(each.get("name"), str)]
    return {each["name"]: DiskImageLogin(username=str(each.get("username", "zuul"))) for each in known}


# -- its secrets -------------------------------------------------------------------------------------------------------


def _secrets(schemas: Schemas, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield secret values by the schemas, and values of ``pass-environment``, that are long enough to look for."""
    found = [*secret_texts(schemas.provider, content)]
    for pool in content.get("pools") or ():
        found += secret_texts(schemas.pool, pool)
        for label in pool.get("labels") or () if isinstance(pool, Mapping) else ():
            found += secret_texts(schemas.label, label)
    found += (os.environ.get(name, "") for name in content.get("pass-environment") or ())
    yield from (each for each in found if len(each) >= SHORTEST_SECRET)
