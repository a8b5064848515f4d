"""Support for drivers of other packages and programs: finds, installs, starts and calls them.

``executables.py`` finds their executables, ``process/`` runs a driver in a separate process, ``wire/`` has the
messages, ``install/`` installs a driver into a separate environment, ``catalogue.py`` lists all drivers, and
``scaffold/`` makes the package of a new driver. The sdk is the driver's end of the wire.
"""
