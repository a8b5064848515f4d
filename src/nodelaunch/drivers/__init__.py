"""The drivers, one folder for each cloud. `DriverPlugin` describes a driver; `DriverRegistry` finds drivers by name.

``registry.py`` also finds drivers of other packages and programs; driverhost/ runs them.
"""

from nodelaunch.drivers.plugin import ENTRY_POINT_GROUP, OWN_PACKAGE, DriverNotFoundError, DriverPlugin
from nodelaunch.drivers.registry import DriverRegistry

__all__ = ["ENTRY_POINT_GROUP", "OWN_PACKAGE", "DriverNotFoundError", "DriverPlugin", "DriverRegistry"]
