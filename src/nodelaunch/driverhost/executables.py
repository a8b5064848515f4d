"""Where the executables of drivers are: ``nodelaunch-driver-NAME`` on the PATH, beside the interpreter, where
``nodelaunch driver install`` puts them, or by its path. For a driver that listens at a socket, a relay to it is its
executable.

What does *not* belong here: starting them. Looking starts nothing.
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
"""Before the path of a socket, in place of a driver's name."""


def executables() -> dict[str, Command]:
    """Those that can be found by a name, by that name, sorted."""
    found = {
        path.name.removeprefix(PREFIX)
        for folder in _search_path().split(os.pathsep)
        for path in Path(folder).glob(f"{PREFIX}*")
        if path.name.isprintable()  # no configuration could name it, and no list show it
    }
    commands = {name: find_executable(name) for name in sorted(found)}
    return {name: command for name, command in commands.items() if command is not None}


def find_executable(name: str) -> Command | None:
    """The executable of driver *name*, which may be a path; None: there is none that can be run.

    A package that is installed where we are has its executables beside the interpreter. Whether anybody listens at a
    socket is found out when its relay is started.
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
    """Where the driver called *name* listens; None: it is one that is started."""
    path = name.removeprefix(SOCKET_PREFIX)
    return Path(path).expanduser().absolute() if path and path != name else None


def _search_path() -> str:
    folders = (Path(sys.executable).parent, *(each.programs for each in installations()))
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *map(str, folders)))
