"""Keys of ``driver: test``. Source: Nodepool 11."""

from __future__ import annotations

from nodelaunch.config.models import PoolConfig, ProviderConfig, Texts


class TestPool(PoolConfig):
    labels: Texts = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.labels))

    @property
    def label_places(self) -> tuple[tuple[tuple[str | int, ...], str], ...]:
        return tuple((("labels", index), label) for index, label in enumerate(self.labels))


class TestProvider(ProviderConfig):
    pools: tuple[TestPool, ...] = ()
