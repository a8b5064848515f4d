"""A cloud that isn't there, with an OpenStack driver's options: for trying out, for tests, for embedders' tests.

The cloud (cloud.py) is apart from the driver (driver.py): it can live in a file, outlive the launcher, and be looked
at, changed and broken from outside while the launcher runs (``nodelaunch fake-cloud``).
"""

from collections.abc import Mapping
from typing import Any, Final

from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.drivers.plugin import DriverPlugin

EXAMPLE: Final[Mapping[str, Any]] = {
    "cloud-file": "{folder}/cloud.sqlite",
    "boot-time": 0.03,
    "delete-time": 0.03,
    "limits": {"max-servers": 1000, "max-cores": 100_000, "max-ram": 100_000_000},
    "cloud-images": [{"name": "debian"}],
    "pools": [{"name": "main", "labels": [{"name": "small", "cloud-image": "debian", "min-ram": 4096}]}],
}

PLUGIN = DriverPlugin(
    "fake", FakeProvider, FakeDriver, summary="a cloud that isn't there, for trying out and testing", example=EXAMPLE
)
