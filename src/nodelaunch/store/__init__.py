"""Where the records live: implementations of the port in ``protocol/store.py``, and what they share."""
