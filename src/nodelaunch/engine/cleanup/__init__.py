"""Deletes nodes and repairs leftovers: the sweeper, one file for each kind of leftover, and their work queue."""
