"""Where the records live: implementations of the port in ``protocol/store.py``."""
