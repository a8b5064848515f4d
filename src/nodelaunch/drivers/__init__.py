"""The clouds, one folder each, and how they are found: `DriverPlugin` is what a driver offers, `DriverRegistry` has
all.

Drivers of other packages and programs are found by ``registry.py`` like these; what runs them is in driverhost/.
"""

from nodelaunch.drivers.plugin import ENTRY_POINT_GROUP, OWN_PACKAGE, DriverNotFoundError, DriverPlugin
from nodelaunch.drivers.registry import DriverRegistry

__all__ = ["ENTRY_POINT_GROUP", "OWN_PACKAGE", "DriverNotFoundError", "DriverPlugin", "DriverRegistry"]
