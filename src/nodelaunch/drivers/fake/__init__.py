"""A simulated cloud with the options of an OpenStack driver, for trials, tests and tests of embedding programs.

The cloud (cloud.py) is separate from the driver (driver.py). With a file, the cloud outlives the launcher, and
``nodelaunch fake-cloud`` shows, changes and breaks it while the launcher runs.
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
    "fake", FakeProvider, FakeDriver, summary="a simulated cloud, for trials and tests", example=EXAMPLE
)
