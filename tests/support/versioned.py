"""A driver that keeps some versions of the contract only: ``versioned.py FIRST LAST``, on nodelaunch's own SDK."""

import sys
from dataclasses import replace

from nodelaunch.driverhost.wire.messages import VersionRange
from nodelaunch.drivers.test import PLUGIN
from nodelaunch.sdk import serve

first, last = map(int, sys.argv[1:])
sys.exit(serve(replace(PLUGIN, contract=(first, last)), versions=VersionRange(min=0, max=99)))
