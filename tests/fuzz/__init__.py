"""Whole launchers against a store and clouds that fail, in virtual time; see `test_simulation` and ``python -m``."""
