"""A driver that keeps some versions of the contract only: ``versioned.py FIRST LAST``, on nodelaunch's own SDK."""

import sys
from dataclasses import replace

from nodelaunch.drivers.sdk import serve
from nodelaunch.drivers.test import PLUGIN
from nodelaunch.drivers.wire.messages import VersionRange

first, last = map(int, sys.argv[1:])
sys.exit(serve(replace(PLUGIN, contract=(first, last)), versions=VersionRange(min=0, max=99)))
