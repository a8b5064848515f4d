"""Decides, as pure functions: which request is served next, by which pool, and what a launcher does with it.

``scheduling.py`` orders the requests that wait, ``triage.py`` says what one pool says to one request, ``machine.py``
takes a request from its acceptance to its end. The engine performs what is decided here. No I/O, no clock, no
randomness, no logging, no third-party package: time and ids come in as arguments.
"""
