"""The machinery for drivers that other packages and programs bring: it finds, installs, starts and speaks with them.

``executables.py`` finds them, ``process/`` runs one in a process of its own, ``wire/`` has what is said to it,
``install/`` installs one into an environment of its own, ``catalogue.py`` lists all that there are, ``scaffold/`` makes
the package of a new one. What does *not* belong here: any cloud (drivers), and the driver's end of the wire (sdk).
"""
