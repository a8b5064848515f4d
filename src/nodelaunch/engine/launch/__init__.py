"""Launches the nodes of a request: a task for each, which records the node, creates its instance and sees it ready."""
