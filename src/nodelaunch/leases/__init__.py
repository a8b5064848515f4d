"""Leases of other providers' nodes in the store: implements the port of ``protocol/cluster.py``."""
