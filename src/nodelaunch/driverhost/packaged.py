"""Takes version, maintainer and licence of a driver from the metadata of its package, if the plugin does not give them.

Source of the keys: the Python packaging specification, core metadata 2.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import Distribution, distribution, packages_distributions
from typing import Final

from nodelaunch.drivers.plugin import ENTRY_POINT_GROUP, OWN_PACKAGE, DriverPlugin

MAINTAINER: Final = ("Maintainer", "Author", "Maintainer-email", "Author-email")
LICENCE: Final = ("License-Expression", "License")


def completed(plugin: DriverPlugin, package: Distribution | None = None) -> DriverPlugin:
    """Return *plugin* with its missing data taken from *package*; None: the package of the driver's options."""
    found = package or _package_of(plugin)
    if found is None or found.name == OWN_PACKAGE:
        return plugin
    return replace(
        plugin,
        version=plugin.version or found.version,
        maintainer=plugin.maintainer or said_by(found, MAINTAINER),
        licence=plugin.licence or said_by(found, LICENCE),
    )


def said_by(package: Distribution, keys: Iterable[str]) -> str:
    """Return the value of the first of *keys* in the metadata of *package*; empty if there is none."""
    metadata = package.metadata
    return next((str(metadata[key]) for key in keys if key in metadata), "")


def _package_of(plugin: DriverPlugin) -> Distribution | None:
    module = plugin.config_model.__module__.partition(".")[0]
    names = list(dict.fromkeys(packages_distributions().get(module, ())))
    if len(names) == 1:
        return distribution(names[0])
    return next((each for each in map(distribution, names) if _offers(each, plugin.name)), None)


def _offers(package: Distribution, name: str) -> bool:
    return any(point.group == ENTRY_POINT_GROUP and point.name == name for point in package.entry_points)
