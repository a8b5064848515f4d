"""Servers of an OpenStack cloud, through openstacksdk.

``driver.py`` implements the driver port. Only ``client.py`` calls openstacksdk, in threads that ``bridge.py`` limits
and paces. ``errors.py`` translates the cloud's errors.
"""

from importlib.util import find_spec

from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.drivers.openstack.driver import OpenStackDriver
from nodelaunch.drivers.plugin import DriverPlugin

if find_spec("openstack") is None:  # openstacksdk is imported on the first call, because that takes a while
    raise ImportError("openstacksdk is not installed", name="openstack")

PLUGIN = DriverPlugin("openstack", OpenStackProvider, OpenStackDriver, summary="servers of an OpenStack cloud")
