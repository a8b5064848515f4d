"""Decides, as pure functions: which request is served next, by which pool, and how a launcher serves it.

``scheduling.py`` orders the requests that wait, ``triage.py`` gives the verdict of one pool on one request,
``machine.py`` takes a request from its acceptance to its end. The engine performs the decisions. No I/O, no clock, no
randomness, no logging, no third-party package: time and ids are arguments.
"""
