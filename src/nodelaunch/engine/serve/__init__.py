"""Serves node requests: the scheduler decides, a pool starts a handler for each request that it accepts."""
