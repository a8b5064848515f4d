"""``python -m nodelaunch.sdk NAME``: an installed driver as a process, for ``isolation: process``."""

import sys

from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.sdk import serve

if len(sys.argv) not in (2, 4):
    sys.exit("usage: python -m nodelaunch.sdk NAME [--listen PATH]")
sys.exit(serve(DriverRegistry().get(sys.argv[1]), arguments=sys.argv[2:]))
