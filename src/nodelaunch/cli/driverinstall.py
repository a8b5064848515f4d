"""``nodelaunch driver install`` and ``driver remove``: installs each driver into its own environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nodelaunch.cli.common import say
from nodelaunch.driverhost.catalogue import DriverCatalog
from nodelaunch.driverhost.install.installer import installer
from nodelaunch.driverhost.install.layout import Installation, default_home

Home = Annotated[Path | None, Parameter(help=f"Folder of installed drivers; default: {default_home()}.", metavar="DIR")]


def install(
    target: Annotated[
        str,
        Parameter(help="A package name, or the path of a wheel, archive or project.", metavar="NAME[==VERSION]|PATH"),
    ],
    /,
    *,
    locked: Annotated[
        bool,
        Parameter(
            help="Install exactly the locked versions, of the installed package NAME or from the lock file PATH."
        ),
    ] = False,
    offline: Annotated[bool, Parameter(help="Use no package index.")] = False,
    index_dir: Annotated[Path | None, Parameter(help="Further folder to search for packages.", metavar="DIR")] = None,
    home: Home = None,
) -> None:
    """Install a driver's package into its own environment."""
    works = installer(home=home, is_offline=offline, index=index_dir)
    made = works.install_locked(target) if locked else works.install(target)
    record = made.record
    say(f"installed {record.package} {record.version} with {_drivers(made)}")
    say(f"locked versions: {made.lock}")
    for driver in record.drivers:
        if works.home == default_home().absolute():
            _tell_of_others(driver, made)


def remove(
    name: Annotated[str, Parameter(help="Name of the package or of its driver.", metavar="NAME")],
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
    """Print a note if a configuration that names *driver* uses another driver of this name."""
    found = DriverCatalog().find(driver)
    if found.lock != made.lock:
        say(f"note: in a configuration, another driver {driver} takes precedence: {found.in_words}")
