"""A driver whose nodes are ready at once, without address, quota or keys. Source: Nodepool 11, test driver."""

from nodelaunch.drivers.plugin import DriverPlugin
from nodelaunch.drivers.test.config import TestProvider
from nodelaunch.drivers.test.driver import TestDriver

PLUGIN = DriverPlugin(
    "test",
    TestProvider,
    TestDriver,
    summary="nodes that are ready at once, for tests",
    example={"pools": [{"name": "main", "max-servers": 10, "labels": ["small"]}]},
)
