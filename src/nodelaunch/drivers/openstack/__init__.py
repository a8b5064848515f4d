"""Servers of an OpenStack cloud, through openstacksdk.

``driver.py`` keeps the driver's contract; ``client.py`` is the one place that calls openstacksdk, in threads that
``bridge.py`` bounds and paces; ``errors.py`` says what an error of the cloud means.
"""

from importlib.util import find_spec

from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.drivers.openstack.driver import OpenStackDriver
from nodelaunch.drivers.plugin import DriverPlugin

if find_spec("openstack") is None:  # it is loaded when the first call is made, which takes a while
    raise ImportError("openstacksdk is not installed", name="openstack")

PLUGIN = DriverPlugin("openstack", OpenStackProvider, OpenStackDriver, summary="servers of an OpenStack cloud")
