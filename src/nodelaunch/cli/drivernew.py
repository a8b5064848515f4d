"""``nodelaunch driver new``: the package of a driver to begin with.

What does *not* belong here: what is in it (nodelaunch.driverhost.scaffold).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nodelaunch.cli.common import say
from nodelaunch.driverhost.scaffold import ScaffoldError, check_name, make_package
from nodelaunch.drivers.registry import DriverRegistry


def new(
    name: Annotated[str, Parameter(help="As configurations will have it: letters, digits, dashes.", metavar="NAME")],
    /,
    *,
    output: Annotated[
        Path | None, Parameter(help="Folder to make; default: nodelaunch-driver-NAME.", metavar="DIR")
    ] = None,
) -> None:
    """Make the package of a new driver, which works as it is.

    It has options, the calls of the contract on a cloud that is a file, ways to break that cloud, an executable and
    tests, and reaches bronze. Exit code: 1 the folder is there already, or the name can't be used.
    """
    check_name(name)
    if name in DriverRegistry().names:
        raise ScaffoldError(f"there is a driver {name!r} already; take another name")
    folder = output or Path(f"nodelaunch-driver-{name}")
    for file in make_package(name, folder):
        say(str(file))
    say(f"\nNext: pip install --editable {folder} && nodelaunch driver check {name}")
