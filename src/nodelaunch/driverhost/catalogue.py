"""All drivers that can be had here, with what is known of each: for people who look, and for editors' schemas.

`found` looks for them and neither imports nor starts anything; `facts_of` asks one what it is, and never fails: what
keeps a driver from being used is a fact, too. What does *not* belong here: using a driver, and printing.
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
"""Executables that are started side by side to say what they are."""


class Origin(enum.StrEnum):
    """Where a driver comes from."""

    BUILT_IN = "built in"
    PACKAGE = "package"
    """Of a Python package in the launcher's own environment; it can run in the launcher."""
    EXECUTABLE = "executable"
    INSTALLED = "installed"
    """Of a Python package that ``nodelaunch driver install`` put into an environment of its own."""
    SOCKET = "socket"
    """Somebody started it, and it listens there."""


@dataclass(frozen=True, slots=True)
class FoundDriver:
    """A driver that is there. Nothing was asked of it yet."""

    name: str
    """As a configuration names it."""
    origin: Origin
    place: str
    """The package with its version, or the path of the executable or socket."""
    source: EntryPoint | Command
    lock: Path | None = None
    """That of its environment, if it has one of its own."""

    @property
    def in_words(self) -> str:
        return str(self.origin) if self.origin is Origin.BUILT_IN else f"{self.origin} {self.place}"


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What is known of a driver. Texts are empty where it does not say."""

    found: FoundDriver
    plugin: DriverPlugin | None = None
    """None when it can't be used; `problem` says why, then."""
    version: str = ""
    contract: VersionRange | None = None
    """Versions of the contract it keeps."""
    maintainer: str = ""
    licence: str = ""
    capabilities: tuple[str, ...] = ()
    digest: str = ""
    """SHA-256 of its executable, or of the sources of its package; empty where they can't be read."""
    levels: Mapping[str, Level] = field(default_factory=dict)
    """Found by the last checks of just this digest, by how it was run: ``inline``, ``process``; none: it was not
    checked since it is what it is."""
    problem: str = ""
    """What keeps it from being used, and what to do about it."""

    @property
    def origin(self) -> str:
        """In words."""
        return self.found.in_words

    @property
    def spoken(self) -> str:
        """The versions of the contract, in words; empty: not known."""
        if self.contract is None:
            return ""
        first, last = self.contract.min, self.contract.max
        return str(first) if first == last else f"{first} to {last}"

    @property
    def leveled(self) -> str:
        """The levels in words, such as ``silver inline, gold process``; empty: not known."""
        return ", ".join(f"{level.value} {isolation}" for isolation, level in sorted(self.levels.items()))

    @property
    def isolation(self) -> str:
        """How it runs, in words; empty: not known."""
        if self.plugin is None:
            return ""
        if self.plugin.is_process:
            return "in a process of its own"
        return "in the launcher, or with isolation: process in a process of its own"

    @property
    def options(self) -> DriverOptions | None:
        """What a schema of the configuration needs; None when that is not known."""
        if self.plugin is None:
            return None
        return DriverOptions(self.found.name, self.plugin.config_model, self.plugin.summary)


@dataclass(frozen=True, slots=True)
class DriverCatalog:
    """The drivers of one environment."""

    registry: DriverRegistry = field(default_factory=DriverRegistry)

    def found(self) -> list[FoundDriver]:
        """All of them, by name; of several of one name the one that a configuration gets. Starts nothing."""
        packages = {name: _of_package(point) for name, point in self.registry.entry_points.items()}
        programs = {name: self._of_executable(name, command) for name, command in executables().items()}
        return [found for _, found in sorted({**programs, **packages}.items())]

    def find(self, name: str) -> FoundDriver:
        """The driver called *name*, which may be the path of an executable. Raises: DriverNotFoundError."""
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
        """What is known of one; imports it, or starts it to be asked, with a deadline."""
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
        """What is known of *which*, or of all; executables are asked side by side."""
        with ThreadPoolExecutor(ASKED_AT_A_TIME, thread_name_prefix="ask a driver") as pool:
            return list(pool.map(self.facts_of, self.found() if which is None else which))


def _of_package(point: EntryPoint) -> FoundDriver:
    if point.dist is None or point.dist.name == OWN_PACKAGE:
        return FoundDriver(point.name, Origin.BUILT_IN, f"{OWN_PACKAGE} {__version__}", point)
    return FoundDriver(point.name, Origin.PACKAGE, f"{point.dist.name} {point.dist.version}", point)


def _version_of(found: FoundDriver, said: str) -> str:
    """What the driver says, else its package's version."""
    return said or ("" if found.origin in (Origin.EXECUTABLE, Origin.SOCKET) else found.place.rpartition(" ")[2])


def _said_by_package(found: FoundDriver, keys: Iterable[str]) -> str:
    """The first of the *keys* that the metadata of the driver's package has."""
    if not isinstance(found.source, EntryPoint) or found.source.dist is None:
        return ""
    return said_by(found.source.dist, keys)


# -- digests --------------------------------------------------------------------------------------------------------


def digest_of(found: FoundDriver) -> str:
    """SHA-256, in hexadecimal, of what the driver is made of; it is read, never imported. Empty: it can't be read.

    That is its executable; the lock file of its environment, which has digests of all that is in there; or the sources
    of its package: of the subpackage its entry point names if it is built in, else of the whole one.
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
    """Of the sources of a package or module that can be imported as *name*; of their names, too."""
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
    """The files of a package, or the one file of a module; by their names in it."""
    if origin is None:
        return
    path = Path(origin)
    if path.name != "__init__.py":
        yield path.name, path
        return
    for inner in path.parent.rglob("*"):
        if inner.is_file() and inner.suffix != ".pyc":
            yield inner.relative_to(path.parent).as_posix(), inner
