"""Limits, and the capacity that is left: reservations, the queue of launches that wait for capacity, shared limits."""
