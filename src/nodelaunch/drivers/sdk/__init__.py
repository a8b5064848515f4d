"""Former name of `nodelaunch.sdk`."""

import warnings

from nodelaunch.sdk import serve

__all__ = ["serve"]

warnings.warn("nodelaunch.drivers.sdk is now nodelaunch.sdk", DeprecationWarning, stacklevel=2)
