"""Former name of ``python -m nodelaunch.sdk``."""

from runpy import run_module

run_module("nodelaunch.sdk", run_name="__main__", alter_sys=True)
