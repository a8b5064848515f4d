"""``python -m nodelaunch.drivers.sdk NAME``: an installed driver as a process, for ``isolation: process``."""

import sys

from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.sdk import serve

if len(sys.argv) != 2:
    sys.exit("usage: python -m nodelaunch.drivers.sdk NAME")
sys.exit(serve(DriverRegistry().get(sys.argv[1])))
