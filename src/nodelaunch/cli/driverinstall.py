"""``nodelaunch driver install`` and ``driver remove``: drivers in environments of their own.

What does *not* belong here: how that is done (nodelaunch.drivers.installing).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nodelaunch.cli.common import say
from nodelaunch.drivers.home import Installation, default_home
from nodelaunch.drivers.installed import Catalogue
from nodelaunch.drivers.installing import installer


def add_parser(verbs: Any) -> None:
    """Among the verbs of ``nodelaunch driver``."""
    install = verbs.add_parser("install", help="install a driver's package into an environment of its own")
    install.add_argument("target", metavar="NAME[==VERSION] | PATH", help="a package; a wheel, archive or project")
    install.add_argument(
        "--locked",
        action="store_true",
        help="exactly what is locked: of the installed package NAME, or in the file PATH",
    )
    install.add_argument("--offline", action="store_true", help="use no package index")
    install.add_argument(
        "--index-dir", metavar="DIR", type=Path, help="folder in which packages are looked for as well"
    )
    _add_home(install)
    install.set_defaults(run=run_install, default_log_level="error")
    remove = verbs.add_parser("remove", help="remove an installed driver's package")
    remove.add_argument("name", metavar="NAME", help="of the package, or of its driver")
    _add_home(remove)
    remove.set_defaults(run=run_remove, default_log_level="error")


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home", metavar="DIR", type=Path, help=f"where installed drivers are (default: {default_home()})"
    )


def run_install(args: argparse.Namespace) -> int:
    works = installer(home=args.home, is_offline=args.offline, index=args.index_dir)
    made = works.install_locked(args.target) if args.locked else works.install(args.target)
    record = made.record
    say(f"installed {record.package} {record.version} with {_drivers(made)}")
    say(f"locked in {made.lock}")
    for driver in record.drivers:
        if works.home == default_home().absolute():
            _tell_of_others(driver, made)
    return 0


def run_remove(args: argparse.Namespace) -> int:
    removed = installer(home=args.home, is_offline=True, index=None).remove(args.name)
    say(f"removed {removed.record.package} {removed.record.version} with {_drivers(removed)}")
    return 0


def _drivers(installation: Installation) -> str:
    names = installation.record.drivers
    return f"driver{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _tell_of_others(driver: str, made: Installation) -> None:
    """Say so if a configuration that names *driver* gets another one."""
    found = Catalogue().find(driver)
    if found.lock != made.lock:
        say(f"note: driver {driver} in a configuration is still another one, which goes first: {found.in_words}")
