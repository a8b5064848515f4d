"""A driver of nodelaunch whose nodes are sshds on this machine, each at its own loopback address."""

from nodelaunch.drivers import DriverPlugin

from nodelaunch_loopback.config import LoopbackProvider
from nodelaunch_loopback.driver import LoopbackDriver

EXAMPLE = {"state-dir": "{folder}", "pools": [{"name": "main", "labels": [{"name": "small"}]}]}
"""With these options `nodelaunch driver check loopback` works on any machine that has sshd."""

PLUGIN = DriverPlugin(
    "loopback",
    LoopbackProvider,
    LoopbackDriver,
    summary="an sshd of this machine per node, at a loopback address of its own",
    example=EXAMPLE,
    capabilities=("local_processes",),  # its machines are processes, and outlive it
)
