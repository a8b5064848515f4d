"""Executables with GARM's external provider interface (v0.1.0 or v0.1.1), as a nodelaunch provider.

``interface.py`` has the interface's data, ``naming.py`` encodes metadata in instance names, ``calls.py`` runs one
command, ``driver.py`` implements the driver port. ``config.py`` has the options, and ``asking.py`` asks a provider for
its options. Source: cloudbase/garm doc/external_provider.md, cloudbase/garm-provider-common.
"""

from nodelaunch.drivers.garm.config import GarmProvider, model_for
from nodelaunch.drivers.garm.driver import GarmDriver
from nodelaunch.drivers.plugin import DriverPlugin

PLUGIN = DriverPlugin(
    "garm",
    GarmProvider,
    GarmDriver,
    summary="executables made for GARM, as a provider",
    capabilities=("local_processes",),
    model_for=model_for,
)
