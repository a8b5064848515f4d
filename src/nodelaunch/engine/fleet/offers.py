"""The labels that pools offer, in any launcher."""

from __future__ import annotations

from collections.abc import Iterable

from nodelaunch.config.models import ProviderConfig
from nodelaunch.engine.fleet.presence import KnownPools
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.records import Node

Offers = dict[tuple[str | None, str | None], frozenset[str]]
"""Labels by provider and pool."""


def offers_of(providers: Iterable[ProviderConfig], others: Iterable[tuple[str, str, frozenset[str]]]) -> Offers:
    """Return the offers of the pools of *providers* and of *others*: provider, pool and labels of each."""
    offers: Offers = {
        (provider.name, pool.name): frozenset(pool.label_names) for provider in providers for pool in provider.pools
    }
    for provider_name, pool_name, labels in others:
        offers[provider_name, pool_name] = offers.get((provider_name, pool_name), frozenset()) | labels
    return offers


def is_offered(offers: Offers, node: Node) -> bool:
    """Return True if *node*'s pool offers one of the node's labels."""
    return not offers.get((node.provider, node.pool), frozenset()).isdisjoint(node.type)


class OfferedLabels:
    """Labels by pool, of every pool that is configured here, registered by any launcher, or away for a while.

    Invariant: the table is as of the configuration, the registry and the absent pools that it was last built from; it
    is built again when one of these is another object.
    """

    def __init__(self, providers: Iterable[ProviderConfig], view: ClusterView, memory: KnownPools) -> None:
        self.providers = providers
        """The providers configured here; to be replaced when the configuration changes."""
        self._view = view
        self._memory = memory
        self._sources: tuple[object, object, object] = (None, None, None)
        self._offers: Offers = {}

    def is_served(self, node: Node) -> bool:
        """Return True if *node*'s pool offers one of the node's labels, and is not drained by an operator."""
        if self._view.is_draining(node.provider or "", node.pool or ""):
            return False
        sources = (self.providers, self._view.peers, self._memory.absent())
        if any(now is not before for now, before in zip(sources, self._sources, strict=True)):
            self._sources, self._offers = sources, self._found()
        return is_offered(self._offers, node)

    def _found(self) -> Offers:
        others = [(peer.provider, peer.pool, peer.labels) for peer in self._view.peers]
        others += [(absent.provider, absent.pool, absent.labels) for absent in self._memory.absent()]
        return offers_of(self.providers, others)
