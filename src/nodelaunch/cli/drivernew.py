"""``nodelaunch driver new``: creates the package of a new driver, from nodelaunch.driverhost.scaffold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nodelaunch.cli.common import say
from nodelaunch.driverhost.scaffold import ScaffoldError, check_name, make_package
from nodelaunch.drivers.registry import DriverRegistry


def new(
    name: Annotated[
        str, Parameter(help="The driver's name in configurations: letters, digits, dashes.", metavar="NAME")
    ],
    /,
    *,
    output: Annotated[
        Path | None, Parameter(help="Folder to create; default: nodelaunch-driver-NAME.", metavar="DIR")
    ] = None,
) -> None:
    """Create the package of a new driver, which works without changes.

    The package has options, the calls of the contract for a cloud in a file, fault injection, an executable and tests,
    and reaches bronze. Exit code: 1 the folder already exists, or the name can't be used.
    """
    check_name(name)
    if name in DriverRegistry().names:
        raise ScaffoldError(f"a driver {name!r} already exists; use another name")
    folder = output or Path(f"nodelaunch-driver-{name}")
    for file in make_package(name, folder):
        say(str(file))
    say(f"\nNext: pip install --editable {folder} && nodelaunch driver check {name}")
