"""Limits, and what is left of them: reservations, the queue of launches that wait for room, launchers that share."""
