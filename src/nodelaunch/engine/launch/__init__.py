"""Launches the nodes of a request: a task for each node records it, creates its instance and waits until it is
ready."""
