"""Machines that already exist: bare metal, manually managed virtual machines, network devices."""

from __future__ import annotations

from nodelaunch.drivers.plugin import DriverPlugin
from nodelaunch.drivers.static.config import StaticProvider
from nodelaunch.drivers.static.driver import StaticDriver

PLUGIN = DriverPlugin("static", StaticProvider, StaticDriver.open)

__all__ = ["PLUGIN", "StaticDriver", "StaticProvider"]
