"""The labels that pools offer, whoever runs them."""

from __future__ import annotations

from collections.abc import Iterable

from nodelaunch.config.models import ProviderConfig
from nodelaunch.engine.peers import Memory
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.records import Node

Offers = dict[tuple[str | None, str | None], frozenset[str]]
"""Labels by provider and pool."""


class OfferedLabels:
    """Labels by pool, of every pool that is configured here, registered by anybody, or away for a while.

    Invariant: the table is as of the configuration, the registry and the absent pools that it was last built from; it
    is built again when one of these is another object.
    """

    def __init__(self, providers: Iterable[ProviderConfig], view: ClusterView, memory: Memory) -> None:
        self.providers = providers
        """Those configured here; to be replaced when the configuration changes."""
        self._view = view
        self._memory = memory
        self._sources: tuple[object, object, object] = (None, None, None)
        self._offers: Offers = {}

    def is_served(self, node: Node) -> bool:
        """Whether *node*'s pool offers one of the node's labels, and is not drained by an operator."""
        if self._view.is_draining(node.provider or "", node.pool or ""):
            return False
        sources = (self.providers, self._view.peers, self._memory.absent())
        if any(now is not before for now, before in zip(sources, self._sources, strict=True)):
            self._sources, self._offers = sources, self._found()
        return not self._offers.get((node.provider, node.pool), frozenset()).isdisjoint(node.type)

    def _found(self) -> Offers:
        offers: Offers = {
            (provider.name, pool.name): frozenset(pool.label_names)
            for provider in self.providers
            for pool in provider.pools
        }
        others = [(peer.provider, peer.pool, peer.labels) for peer in self._view.peers]
        others += [(absent.provider, absent.pool, absent.labels) for absent in self._memory.absent()]
        for provider, pool, labels in others:
            offers[provider, pool] = offers.get((provider, pool), frozenset()) | labels
        return offers
