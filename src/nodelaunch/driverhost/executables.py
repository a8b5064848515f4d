"""Finds the executables of drivers: ``nodelaunch-driver-NAME`` on the PATH, beside the interpreter or where
``nodelaunch driver install`` puts them, or at a given path. The executable of a driver that listens at a socket is a
proxy. Finding an executable starts nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from nodelaunch.driverhost.install.layout import EXECUTABLE_PREFIX, installations
from nodelaunch.driverhost.process import socketproxy
from nodelaunch.driverhost.process.child import Command

PREFIX: Final = EXECUTABLE_PREFIX
SOCKET_PREFIX: Final = "unix:"
"""Prefix that marks a driver's name as the path of a socket."""


def executables() -> dict[str, Command]:
    """Return the executables that are found by name, sorted by driver name."""
    found = {
        path.name.removeprefix(PREFIX)
        for folder in _search_path().split(os.pathsep)
        for path in Path(folder).glob(f"{PREFIX}*")
        if path.name.isprintable()  # other names can't be written in a configuration or shown in a list
    }
    commands = {name: find_executable(name) for name in sorted(found)}
    return {name: command for name, command in commands.items() if command is not None}


def find_executable(name: str) -> Command | None:
    """Return the executable of driver *name*, which may be a path; None if there is none that can be run.

    The executables of a package in this environment are beside the interpreter. If a socket has no listener, this shows
    only when its proxy is started.
    """
    if (socket := socket_of(name)) is not None:
        return Command(name, (sys.executable, "-I", "-S", socketproxy.__file__, str(socket)))
    if "/" in name:
        path = Path(name).expanduser()
        found = str(path.absolute()) if path.is_file() and os.access(path, os.X_OK) else None
    else:
        found = shutil.which(PREFIX + name, path=_search_path())
    return None if found is None else Command(Path(name).name.removeprefix(PREFIX), (str(Path(found).absolute()),))


def socket_of(name: str) -> Path | None:
    """Return the path of the socket at which driver *name* listens; None if the name is not that of a socket."""
    path = name.removeprefix(SOCKET_PREFIX)
    return Path(path).expanduser().absolute() if path and path != name else None


def _search_path() -> str:
    folders = (Path(sys.executable).parent, *(each.programs for each in installations()))
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *map(str, folders)))
