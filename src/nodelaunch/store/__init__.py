"""Stores for the records: implementations of the port in ``protocol/store.py``, and their shared parts."""
