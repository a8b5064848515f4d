"""Reads and writes lock files of installed drivers: name, version and SHA-256 of each wheel, as a requirements file for
pip.

installer.py gets the wheels.
"""

from __future__ import annotations

import email
import hashlib
import re
import zipfile
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Final

from nodelaunch.driverhost.install.layout import canonical
from nodelaunch.errors import NodelaunchError

_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) --hash=sha256:(?P<digest>[0-9a-f]{64})")
_HEAD: Final = """\
# Made by: nodelaunch driver install
# The first is the driver's package; the others are what it needs. Python {python}
"""


class InstallError(NodelaunchError):
    """A driver can't be installed or removed; the message says why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Locked:
    """A line of a lock file: the name, version and digest of a wheel."""

    name: str
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.digest}"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel in a local folder."""

    path: Path
    name: str
    version: str
    requires: tuple[str, ...]
    """Canonical names of all required packages, including conditional ones."""

    @property
    def locked(self) -> Locked:
        return Locked(self.name, self.version, hashlib.sha256(self.path.read_bytes()).hexdigest())


def read_wheel(path: Path) -> Wheel:
    """Return name, version, digest and requirements of the wheel at *path*. Raises: InstallError."""
    said = _metadata(path)
    if "Name" not in said or "Version" not in said:
        raise InstallError(f"{path} is no wheel: it does not say which package it is")
    requires = (re.match(r"[A-Za-z0-9._-]+", line) for line in said.get_all("Requires-Dist", []))
    names = tuple(canonical(match[0]) for match in requires if match is not None)
    return Wheel(path, canonical(said["Name"]), said["Version"], names)


def _metadata(path: Path) -> Message:
    try:
        with zipfile.ZipFile(path) as archive:
            inner = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            return email.message_from_bytes(archive.read(inner))
    except StopIteration:
        raise InstallError(f"{path} is no wheel: it has no METADATA") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise InstallError(f"{path} is no wheel: {error}") from None


def write_lock(path: Path, wheels: list[Wheel], *, python: str) -> None:
    """Write a lock file of *wheels*, the driver's package first. Raises: OSError."""
    lines = [str(wheel.locked) for wheel in wheels]
    path.write_text(_HEAD.format(python=python) + "\n".join(lines) + "\n", encoding="utf-8")


def read_lock(path: Path) -> list[Locked]:
    """Return the lines of a lock file. Raises: InstallError if it is unreadable, empty or malformed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InstallError(f"the lock file {path} can't be read: {error}") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InstallError(f"{path}:{number}:1: expected NAME==VERSION --hash=sha256:DIGEST; install it again")
        found.append(Locked(canonical(match["name"]), match["version"], match["digest"]))
    if not found:
        raise InstallError(f"the lock file {path} is empty; install the package again")
    return found
