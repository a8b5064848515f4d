"""Leases of other providers' nodes, as the store keeps them: the port of ``protocol/cluster.py``."""
