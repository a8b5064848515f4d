"""Installs a driver's package into a separate environment, so that its drivers run as processes, and removes it.

A new installation is made beside the current one, with a lock file of its content. When all its drivers have described
themselves, one rename makes the installation current; a failure before that changes nothing. A package that requires
nodelaunch does not get another copy of it: its environment falls back to the launcher's packages. pip.py calls pip;
layout.py finds what is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import nodelaunch
from nodelaunch.driverhost.install.layout import (
    CURRENT,
    EXECUTABLE_PREFIX,
    Installation,
    InstallationRecord,
    canonical,
    default_home,
    installation_in,
    installation_of,
)
from nodelaunch.driverhost.install.lockfile import InstallError, Locked, Wheel, read_lock, read_wheel, write_lock
from nodelaunch.driverhost.install.pip import Environment, Sources
from nodelaunch.driverhost.process.child import Command
from nodelaunch.driverhost.process.plugin import describe
from nodelaunch.drivers.plugin import ENTRY_POINT_GROUP, OWN_PACKAGE, DriverNotFoundError

PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_REQUIREMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9.!+_-]+)?")
_VERSION: Final = ".v-"
_HALF_DONE: Final = ".removed-"
_SHARED: Final = "nodelaunch-launcher.pth"
_PROGRAM: Final = """\
#!/bin/sh
exec {python} -m nodelaunch.sdk {driver}
"""


@dataclass(frozen=True, slots=True)
class Installer:
    """Installs and removes packages in the folder *home*."""

    home: Path
    sources: Sources

    def install(self, target: str) -> Installation:
        """Install the package *target*: a name, ``NAME==VERSION``, or the path of a wheel, an archive or a project.

        Raises: InstallError; then nothing has changed.
        """
        with self._alone(), self._workplace() as place:
            environment = Environment(place / "env")
            environment.create()
            wheels = self._fetched(environment, _requirement(target), place / "wheels")
            return self._finish(place, environment, wheels, target)

    def install_locked(self, target: str) -> Installation:
        """Repeat an installation exactly: *target* is an installed package, or the path of a lock file.

        Raises: InstallError; then nothing has changed.
        """
        before = None if _is_path(target) else self.installed(target)
        lock = Path(target) if before is None else before.lock
        locked = read_lock(lock)
        kept = (before.wheels,) if before is not None else ()
        sources = replace(self.sources, folders=(*kept, *self.sources.folders))
        with self._alone(), self._workplace() as place:
            if before is not None and _digests(locked) <= _files_in(before.wheels):
                sources = Sources(is_offline=True, folders=kept)
            environment = Environment(place / "env")
            environment.create()
            wheels = self._fetched_locked(environment, locked, place, sources)
            return self._finish(place, environment, wheels, target if before is None else before.record.requested)

    def remove(self, name: str) -> Installation:
        """Remove the package called *name*, or the package of the driver called *name*. Raises: InstallError."""
        with self._alone():
            installation = self.installed(name)
            folder = installation.folder.parent
            folder.rename(self.home / f"{_HALF_DONE}{folder.name}")
            self._forget(installation.record.package)
            self._clear()
            return installation

    def installed(self, name: str) -> Installation:
        """Return the installation of package or driver *name*. Raises: InstallError if there is none."""
        found = installation_of(name, self.home)
        if found is None:
            raise InstallError(f"nothing called {name!r} is installed in {self.home}")
        return found

    # -- steps ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the home, so that no other process changes it. Raises: InstallError."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InstallError(f"{self.home} can't be used: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._clear()
            yield
        except BlockingIOError:
            raise InstallError(f"another nodelaunch is changing {self.home}; wait for it") from None
        finally:
            os.close(handle)

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        """Make a new folder in the home, and delete it if the block fails. The folder is never moved, because scripts
        in an environment name its path.
        """
        place = Path(tempfile.mkdtemp(prefix=_VERSION, dir=self.home))
        try:
            yield place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def _fetched(self, environment: Environment, requirement: str, folder: Path) -> list[Wheel]:
        """Put the wheels of the driver's package and of its dependencies into *folder*, and return them."""
        folder.mkdir()
        arguments = ("wheel", "--no-deps", "--wheel-dir", str(folder), *self.sources.arguments)
        if requirement.endswith(".whl"):
            shutil.copy(requirement, folder)
        else:
            environment.pip(*arguments, requirement, sources=self.sources)
        (own,) = (read_wheel(path) for path in folder.iterdir())
        _share(environment, own)
        if needed := environment.needed(own.path, self.sources):
            environment.pip(*arguments, *needed, sources=self.sources)
        others = (read_wheel(path) for path in sorted(folder.iterdir()) if path != own.path)
        return [own, *others]

    def _fetched_locked(
        self, environment: Environment, locked: list[Locked], place: Path, sources: Sources
    ) -> list[Wheel]:
        """Return the wheels of a lock file in its order, each checked against its digest."""
        folder, wanted = place / "wheels", place / "wanted.lock"
        folder.mkdir()
        wanted.write_text("\n".join(map(str, locked)))
        arguments = ("download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder))
        environment.pip(*arguments, *sources.arguments, "-r", str(wanted), sources=sources)
        wanted.unlink()
        wheels = {(wheel.name, wheel.version): wheel for wheel in map(read_wheel, folder.iterdir())}
        ordered = [wheels[each.name, each.version] for each in locked]
        _share(environment, ordered[0])
        return ordered

    def _finish(self, place: Path, environment: Environment, wheels: list[Wheel], requested: str) -> Installation:
        """Install *wheels*, start each driver and check its description, and make the installation current."""
        own = wheels[0]
        lock = place / "drivers.lock"
        write_lock(lock, wheels, python=PYTHON)
        local = Sources(is_offline=True, folders=(place / "wheels",))
        # Install a package even if the launcher has it too, so that the driver gets the locked version.
        environment.pip(
            "install",
            "--no-deps",
            "--ignore-installed",
            "--require-hashes",
            *local.arguments,
            "-r",
            str(lock),
            sources=local,
        )
        drivers = _drivers_of(environment, own)
        installation = Installation(place, InstallationRecord(own.name, own.version, drivers, requested, PYTHON))
        for driver in drivers:
            _ask(installation, driver)
        installation.save()
        return self._put_in_place(installation)

    def _put_in_place(self, installation: Installation) -> Installation:
        """Make *installation* the current one. Keep its predecessor, because processes may still run from it."""
        folder = self.home / installation.record.package
        folder.mkdir(exist_ok=True)
        current = folder / CURRENT
        before = current.resolve() if current.is_symlink() else None
        leading = folder / f".{installation.folder.name}"
        leading.symlink_to(Path("..") / installation.folder.name)
        leading.replace(current)
        self._forget(installation.record.package, besides={installation.folder, before})
        return Installation(current, installation.record)

    def _forget(self, package: str, *, besides: Container[Path | None] = ()) -> None:
        """Delete the unused installations of *package*, except those in *besides*."""
        for folder in self.home.glob(f"{_VERSION}*"):
            made = installation_in(folder)
            if made is not None and made.record.package == package and folder not in besides:
                shutil.rmtree(folder, ignore_errors=True)

    def _clear(self) -> None:
        """Delete the incomplete folders of installers that were killed."""
        for folder in self.home.glob(f"{_VERSION}*"):
            if installation_in(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.home.glob(f"{_HALF_DONE}*"):
            shutil.rmtree(folder, ignore_errors=True)


# -- what a package has ---------------------------------------------------------------------------------------------


def _is_path(target: str) -> bool:
    return "/" in target or target.endswith((".whl", ".lock")) or Path(target).is_file()


def _requirement(target: str) -> str:
    """Return *target* as an argument for pip. Raises: InstallError."""
    if _is_path(target):
        path = Path(target).expanduser().absolute()
        if not path.exists():
            raise InstallError(f"{path} does not exist")
        return str(path)
    if not _REQUIREMENT.fullmatch(target):
        raise InstallError(f"{target!r}: the name of a package, NAME==VERSION or a path is expected")
    return target


def _share(environment: Environment, own: Wheel) -> None:
    """Make the launcher's packages available in the environment, after its own, if the driver's package requires
    nodelaunch.
    """
    if OWN_PACKAGE in own.requires:
        home = Path(nodelaunch.__file__).parents[1]
        folders = dict.fromkeys([home, *(Path(each) for each in sys.path if each.endswith("-packages"))])
        text = "".join(f"{folder}\n" for folder in folders if folder.is_dir())
        (environment.packages / _SHARED).write_text(text, encoding="utf-8")


def _drivers_of(environment: Environment, own: Wheel) -> tuple[str, ...]:
    """Return the names of the package's drivers, after making an executable for each. Raises: InstallError."""
    programs = environment.folder / "bin"
    found = {path.name.removeprefix(EXECUTABLE_PREFIX) for path in programs.glob(f"{EXECUTABLE_PREFIX}*")}
    for driver in sorted(_entry_points_of(environment, own) - found):
        if OWN_PACKAGE not in own.requires:
            raise InstallError(
                f"package {own.name} has driver {driver} in Python, but does not say that it needs {OWN_PACKAGE}: "
                f"its maintainer has to add that to its dependencies"
            )
        program = programs / f"{EXECUTABLE_PREFIX}{driver}"
        program.write_text(_PROGRAM.format(python=shlex.quote(str(environment.python)), driver=shlex.quote(driver)))
        program.chmod(0o755)
        found.add(driver)
    if not found:
        raise InstallError(
            f"{own.name} {own.version} is no driver package: it has neither an executable {EXECUTABLE_PREFIX}NAME "
            f"nor an entry point in the group {ENTRY_POINT_GROUP}"
        )
    return tuple(sorted(found))


def _entry_points_of(environment: Environment, own: Wheel) -> set[str]:
    return {
        point.name
        for dist in distributions(path=[str(environment.packages)])
        if canonical(dist.name) == own.name
        for point in dist.entry_points
        if point.group == ENTRY_POINT_GROUP
    }


def _ask(installation: Installation, driver: str) -> None:
    """Start the driver and ask for its description. Raises: InstallError if this fails."""
    try:
        describe(Command(driver, (str(installation.executable(driver)),)))
    except DriverNotFoundError as error:
        raise InstallError(f"package {installation.record.package} was not installed: {error}") from None


def _digests(locked: Iterable[Locked]) -> set[str]:
    return {each.digest for each in locked}


def _files_in(folder: Path) -> set[str]:
    """Return the SHA-256 of each wheel. Raises: InstallError."""
    try:
        return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.whl")}
    except OSError as error:
        raise InstallError(f"the files in {folder} can't be read: {error.strerror}") from None


def installer(*, home: Path | None, is_offline: bool, index: Path | None) -> Installer:
    """Return an installer. Raises: InstallError if there is no folder *index*."""
    if index is not None and not index.is_dir():
        raise InstallError(f"there is no folder {index}")
    folders = () if index is None else (index.absolute(),)
    return Installer((home or default_home()).absolute(), Sources(is_offline, folders))
