"""Where ``nodelaunch driver install`` keeps drivers: each installation in a folder of its own, never moved.

    HOME/PACKAGE/current        leads to the installation in use
    HOME/.v-XXXX/env            a virtual environment; executables of drivers are in its bin, and name its path
    HOME/.v-XXXX/wheels         what was installed into it
    HOME/.v-XXXX/drivers.lock   name, version and SHA-256 of each of these
    HOME/.v-XXXX/installed.json

Looking here starts nothing and imports nothing. What does *not* belong here: installing (installer.py).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from nodelaunch.userfolders import DATA, user_folder

HOME_VARIABLE: Final = "NODELAUNCH_DRIVER_HOME"
CURRENT: Final = "current"
EXECUTABLE_PREFIX: Final = "nodelaunch-driver-"


def default_home() -> Path:
    """What the variable names, else the folder of this user's data."""
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named).absolute()
    return user_folder(DATA) / "drivers"


@contextmanager
def using(home: Path | None) -> Iterator[None]:
    """Inside the block *home* is the default, here and in processes that are started; None: it stays as it is."""
    before = os.environ.get(HOME_VARIABLE)
    if home is not None:
        os.environ[HOME_VARIABLE] = str(home.absolute())
    try:
        yield
    finally:
        if before is not None:
            os.environ[HOME_VARIABLE] = before
        else:
            os.environ.pop(HOME_VARIABLE, None)


def canonical(package: str) -> str:
    """The one spelling of a Python package's name."""
    return re.sub(r"[-_.]+", "-", package).lower()


@dataclass(frozen=True, slots=True)
class InstallationRecord:
    """``installed.json``: what an installation is of."""

    package: str
    version: str
    drivers: tuple[str, ...]
    requested: str
    """As it was asked for."""
    python: str
    """Version of the interpreter, as ``3.11``."""


@dataclass(frozen=True, slots=True)
class Installation:
    """One package that is installed."""

    folder: Path
    record: InstallationRecord

    @property
    def programs(self) -> Path:
        return self.folder / "env" / "bin"

    @property
    def wheels(self) -> Path:
        return self.folder / "wheels"

    @property
    def lock(self) -> Path:
        return self.folder / "drivers.lock"

    def executable(self, driver: str) -> Path:
        return self.programs / f"{EXECUTABLE_PREFIX}{driver}"

    def save(self) -> None:
        """Write the record. Raises: OSError."""
        text = json.dumps(asdict(self.record), indent=2)
        (self.folder / "installed.json").write_text(f"{text}\n", encoding="utf-8")


def installations(home: Path | None = None) -> list[Installation]:
    """All in *home*, by package; what can't be read is passed over."""
    folder = default_home() if home is None else home
    found = (installation_in(path) for path in sorted(folder.glob(f"[!.]*/{CURRENT}")))
    return [each for each in found if each is not None]


def installation_of(name: str, home: Path | None = None) -> Installation | None:
    """That of the package, or of the driver, called *name*."""
    every = installations(home)
    of_package = (each for each in every if each.record.package == canonical(name))
    return next(of_package, next((each for each in every if name in each.record.drivers), None))


def installation_in(path: Path) -> Installation | None:
    """That in one folder; None: there is none, or none that was finished."""
    try:
        said = json.loads((path / "installed.json").read_text(encoding="utf-8"))
        return Installation(path, InstallationRecord(**{**said, "drivers": tuple(said["drivers"])}))
    except (OSError, ValueError, TypeError, KeyError):
        return None
