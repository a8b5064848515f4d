"""Makes a driver an executable: the other end of ``nodelaunch.driverhost.process``.

    from nodelaunch.sdk import serve
    from mycloud.driver import PLUGIN
    raise SystemExit(serve(PLUGIN))

Install this program as ``nodelaunch-driver-NAME``. The driver's class is the same as inside the launcher. The launcher
starts one process for each provider. ``server.py`` answers the launcher, and ``program.py`` is the program around it.
"""

from nodelaunch.sdk.program import serve

__all__ = ["serve"]
