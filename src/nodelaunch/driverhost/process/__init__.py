"""Drivers that run as processes of their own: found, started, spoken with, restarted and ended here.

To the engine they are drivers like any other. ``executables.py`` finds them, ``plugin.py`` makes a `DriverPlugin` of
one, ``driver.py`` keeps the port by calls over the wire, ``supervisor.py`` has one process running as long as it is
needed, ``child.py`` starts and ends it, ``watchdog.py`` sees to it that it never outlives the launcher.
What does *not* belong here: what is said (driverhost/wire), and the other end (sdk).
"""
