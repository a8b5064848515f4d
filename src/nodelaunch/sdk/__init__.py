"""Makes an executable of a driver: the other end of ``nodelaunch.driverhost.process``.

    from nodelaunch.sdk import serve
    from mycloud.driver import PLUGIN
    raise SystemExit(serve(PLUGIN))

Install that as ``nodelaunch-driver-NAME``. The driver is the same class as within the launcher; it is made once for
each provider, in a process of its own. ``server.py`` answers the launcher, ``program.py`` is the program around it.
What does *not* belong here: any driver.
"""

from nodelaunch.sdk.program import serve

__all__ = ["serve"]
