"""Measures launchers from outside: nodelaunch, nodepool-launcher and a floor, in turns, on one real ZooKeeper over TLS.

    PYTHONPATH=tests python -m bench run latency closed --out results
    PYTHONPATH=tests python -m bench summary results
    PYTHONPATH=tests python -m bench --help

What does *not* belong here: anything that a launcher needs to run, and any knowledge of nodelaunch's inside.
"""
