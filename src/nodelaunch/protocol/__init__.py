"""Definitions that both sides of an interface share: paths, records, states, quota, reasons, and the ports to store and
cloud.

Pure: no I/O, no clock, no randomness, no logging, no third-party package. Time and ids are arguments.
"""
