"""Runs drivers in separate processes. The engine uses them like other drivers.

``plugin.py`` makes a `DriverPlugin` of an executable, ``driver.py`` implements the port by calls over the wire,
``supervisor.py`` keeps one process running, ``child.py`` starts and ends a process, and ``watchdog.py`` makes sure that
a process never outlives the launcher. driverhost/wire has the messages, and the sdk is the other end.
"""
