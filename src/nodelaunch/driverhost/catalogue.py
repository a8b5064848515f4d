"""Lists the drivers that are available here and describes each, for command output and for editors' schemas.

`found` searches for drivers, and neither imports nor starts any; `facts_of` asks a driver for its description.
`facts_of` never fails: the reason why a driver can't be used is a fact, too.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from nodelaunch import __version__
from nodelaunch.config.schema import DriverOptions
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.remembered import remembered
from nodelaunch.driverhost.executables import executables, find_executable, socket_of
from nodelaunch.driverhost.install.layout import installations
from nodelaunch.driverhost.packaged import LICENCE, MAINTAINER, said_by
from nodelaunch.driverhost.process.child import Command
from nodelaunch.driverhost.schemas import capabilities_of
from nodelaunch.driverhost.wire.messages import VersionRange
from nodelaunch.drivers.plugin import OWN_PACKAGE, DriverNotFoundError, DriverPlugin
from nodelaunch.drivers.registry import DriverRegistry

ASKED_AT_A_TIME: Final = 8
"""Number of executables that are started at the same time to be described."""


class Origin(enum.StrEnum):
    """Where a driver comes from."""

    BUILT_IN = "built in"
    PACKAGE = "package"
    """A Python package in the launcher's own environment; its driver can run in the launcher."""
    EXECUTABLE = "executable"
    INSTALLED = "installed"
    """A Python package that ``nodelaunch driver install`` installed into a separate environment."""
    SOCKET = "socket"
    """A socket at which a driver listens that was started separately."""


@dataclass(frozen=True, slots=True)
class FoundDriver:
    """A driver that was found, and not asked for its description yet."""

    name: str
    """The driver's name in a configuration."""
    origin: Origin
    place: str
    """The package with its version, or the path of the executable or socket."""
    source: EntryPoint | Command
    lock: Path | None = None
    """The lock file of the driver's environment, if the driver was installed into a separate one."""

    @property
    def in_words(self) -> str:
        return str(self.origin) if self.origin is Origin.BUILT_IN else f"{self.origin} {self.place}"


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """The description of a driver. A text is empty if the driver does not give it."""

    found: FoundDriver
    plugin: DriverPlugin | None = None
    """The plugin; None if the driver can't be used. `problem` then has the reason."""
    version: str = ""
    contract: VersionRange | None = None
    """Versions of the contract that the driver supports."""
    maintainer: str = ""
    licence: str = ""
    capabilities: tuple[str, ...] = ()
    digest: str = ""
    """SHA-256 of the driver's executable, or of its package's sources; empty if they can't be read."""
    levels: Mapping[str, Level] = field(default_factory=dict)
    """The levels that the last checks of this exact digest found, by isolation: ``inline`` or ``process``. Empty if no
    check of this digest is recorded.
    """
    problem: str = ""
    """The reason why the driver can't be used, and what to do about it."""

    @property
    def origin(self) -> str:
        """The origin as text."""
        return self.found.in_words

    @property
    def spoken(self) -> str:
        """The versions of the contract as text; empty if they are unknown."""
        if self.contract is None:
            return ""
        first, last = self.contract.min, self.contract.max
        return str(first) if first == last else f"{first} to {last}"

    @property
    def leveled(self) -> str:
        """The levels as text, such as ``silver inline, gold process``; empty if they are unknown."""
        return ", ".join(f"{level.value} {isolation}" for isolation, level in sorted(self.levels.items()))

    @property
    def isolation(self) -> str:
        """The way the driver runs, as text; empty if it is unknown."""
        if self.plugin is None:
            return ""
        if self.plugin.is_process:
            return "in a separate process"
        return "in the launcher, or with isolation: process in a separate process"

    @property
    def options(self) -> DriverOptions | None:
        """The driver's part of a configuration's schema; None if it is unknown."""
        if self.plugin is None:
            return None
        return DriverOptions(self.found.name, self.plugin.config_model, self.plugin.summary)


@dataclass(frozen=True, slots=True)
class DriverCatalog:
    """The drivers of one environment."""

    registry: DriverRegistry = field(default_factory=DriverRegistry)

    def found(self) -> list[FoundDriver]:
        """Return all drivers, sorted by name; for each name only the one that a configuration gets. Starts nothing."""
        packages = {name: _of_package(point) for name, point in self.registry.entry_points.items()}
        programs = {name: self._of_executable(name, command) for name, command in executables().items()}
        return [found for _, found in sorted({**programs, **packages}.items())]

    def find(self, name: str) -> FoundDriver:
        """Return the driver called *name*, which may be the path of an executable. Raises: DriverNotFoundError."""
        for found in self.found():
            if found.name == name:
                return found
        if (command := find_executable(name)) is not None:
            return self._of_executable(name, command)
        raise self.registry.unknown(name)

    def _of_executable(self, name: str, command: Command) -> FoundDriver:
        if (socket := socket_of(name)) is not None:
            return FoundDriver(name, Origin.SOCKET, str(socket), command)
        path = Path(command.argv[0])
        for made in installations():
            if path.parent == made.programs:
                place = f"{made.record.package} {made.record.version}"
                return FoundDriver(name, Origin.INSTALLED, place, command, lock=made.lock)
        return FoundDriver(name, Origin.EXECUTABLE, command.argv[0], command)

    def facts_of(self, found: FoundDriver) -> DriverFacts:
        """Return the description of *found*; imports the driver, or starts it with a deadline."""
        digest = digest_of(found)
        levels = remembered(digest) if digest else {}
        try:
            plugin = self.registry.get(found.name)
        except DriverNotFoundError as error:
            return DriverFacts(found, version=_version_of(found, ""), digest=digest, levels=levels, problem=str(error))
        return DriverFacts(
            found,
            plugin,
            version=_version_of(found, plugin.version),
            contract=VersionRange(min=plugin.contract[0], max=plugin.contract[1]),
            maintainer=plugin.maintainer or _said_by_package(found, MAINTAINER),
            licence=plugin.licence or _said_by_package(found, LICENCE),
            capabilities=capabilities_of(plugin),
            digest=digest,
            levels=levels,
        )

    def facts(self, which: Iterable[FoundDriver] | None = None) -> list[DriverFacts]:
        """Return the descriptions of the drivers in *which*, or of all; asks several executables at the same time."""
        with ThreadPoolExecutor(ASKED_AT_A_TIME, thread_name_prefix="ask a driver") as pool:
            return list(pool.map(self.facts_of, self.found() if which is None else which))


def _of_package(point: EntryPoint) -> FoundDriver:
    if point.dist is None or point.dist.name == OWN_PACKAGE:
        return FoundDriver(point.name, Origin.BUILT_IN, f"{OWN_PACKAGE} {__version__}", point)
    return FoundDriver(point.name, Origin.PACKAGE, f"{point.dist.name} {point.dist.version}", point)


def _version_of(found: FoundDriver, said: str) -> str:
    """Return the version *said* by the driver, else the version of its package."""
    return said or ("" if found.origin in (Origin.EXECUTABLE, Origin.SOCKET) else found.place.rpartition(" ")[2])


def _said_by_package(found: FoundDriver, keys: Iterable[str]) -> str:
    """Return the value of the first of *keys* in the metadata of the driver's package."""
    if not isinstance(found.source, EntryPoint) or found.source.dist is None:
        return ""
    return said_by(found.source.dist, keys)


# -- digests --------------------------------------------------------------------------------------------------------


def digest_of(found: FoundDriver) -> str:
    """Return the SHA-256 of the driver's files in hexadecimal; empty if they can't be read. Imports nothing.

    The files are the executable, or the lock file of the driver's environment, which has the digests of everything in
    it, or the sources of the driver's package: the subpackage in its entry point if the driver is built in, else the
    whole package.
    """
    if found.lock is not None:
        return digest_of_file(found.lock)
    if found.origin is Origin.SOCKET:
        return ""
    if isinstance(found.source, Command):
        return digest_of_file(Path(found.source.argv[0]))
    module = found.source.module
    return digest_of_module(module if found.origin is Origin.BUILT_IN else module.partition(".")[0])


def digest_of_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def digest_of_module(name: str) -> str:
    """Return a digest of the file names and sources of the package or module *name*."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return ""
    whole = hashlib.sha256()
    for name_, path in sorted(_sources(spec.origin if spec else None)):
        try:
            whole.update(f"{name_}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        except OSError:
            return ""
    return whole.hexdigest() if spec is not None and spec.origin else ""


def _sources(origin: str | None) -> Iterator[tuple[str, Path]]:
    """Yield the files of a package, or the file of a module, each with its relative path."""
    if origin is None:
        return
    path = Path(origin)
    if path.name != "__init__.py":
        yield path.name, path
        return
    for inner in path.parent.rglob("*"):
        if inner.is_file() and inner.suffix != ".pyc":
            yield inner.relative_to(path.parent).as_posix(), inner
