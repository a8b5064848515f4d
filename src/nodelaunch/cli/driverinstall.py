"""``nodelaunch driver install`` and ``driver remove``: drivers in environments of their own.

What does *not* belong here: how that is done (nodelaunch.driverhost.install.installer).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nodelaunch.cli.common import say
from nodelaunch.driverhost.catalogue import DriverCatalog
from nodelaunch.driverhost.install.installer import installer
from nodelaunch.driverhost.install.layout import Installation, default_home

Home = Annotated[Path | None, Parameter(help=f"Where installed drivers are; default: {default_home()}.", metavar="DIR")]


def install(
    target: Annotated[str, Parameter(help="A package; a wheel, archive or project.", metavar="NAME[==VERSION]|PATH")],
    /,
    *,
    locked: Annotated[
        bool, Parameter(help="Exactly what is locked: of the installed package NAME, or in the file PATH.")
    ] = False,
    offline: Annotated[bool, Parameter(help="Use no package index.")] = False,
    index_dir: Annotated[
        Path | None, Parameter(help="Folder in which packages are looked for as well.", metavar="DIR")
    ] = None,
    home: Home = None,
) -> None:
    """Install a driver's package into an environment of its own."""
    works = installer(home=home, is_offline=offline, index=index_dir)
    made = works.install_locked(target) if locked else works.install(target)
    record = made.record
    say(f"installed {record.package} {record.version} with {_drivers(made)}")
    say(f"locked in {made.lock}")
    for driver in record.drivers:
        if works.home == default_home().absolute():
            _tell_of_others(driver, made)


def remove(
    name: Annotated[str, Parameter(help="Of the package, or of its driver.", metavar="NAME")],
    /,
    *,
    home: Home = None,
) -> None:
    """Remove an installed driver's package."""
    removed = installer(home=home, is_offline=True, index=None).remove(name)
    say(f"removed {removed.record.package} {removed.record.version} with {_drivers(removed)}")


def _drivers(installation: Installation) -> str:
    names = installation.record.drivers
    return f"driver{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _tell_of_others(driver: str, made: Installation) -> None:
    """Say so if a configuration that names *driver* gets another one."""
    found = DriverCatalog().find(driver)
    if found.lock != made.lock:
        say(f"note: driver {driver} in a configuration is still another one, which goes first: {found.in_words}")
