"""Several nodes on one machine: slots on nodes of other providers."""

from __future__ import annotations

from nodelaunch.drivers.metastatic.config import MetastaticProvider
from nodelaunch.drivers.metastatic.driver import MetastaticDriver
from nodelaunch.drivers.plugin import DriverPlugin

PLUGIN = DriverPlugin(
    "metastatic",
    MetastaticProvider,
    MetastaticDriver.open,
    summary="several nodes on one node of another provider",
    needs_cluster=True,
)

__all__ = ["PLUGIN", "MetastaticDriver", "MetastaticProvider"]
