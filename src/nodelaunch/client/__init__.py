"""Requests nodes through the store, as Zuul does: ``nodes.py`` in an event loop, ``threaded.py`` from any thread."""

from nodelaunch.client.nodes import NodeClient, RequestHandle, RequestOptions

__all__ = ["NodeClient", "RequestHandle", "RequestOptions"]
