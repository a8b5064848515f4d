"""Keys of ``driver: test``. Source: Nodepool 11."""

from __future__ import annotations

from typing import ClassVar

from nodelaunch.config.models import TOP_LABELS, PoolConfig, ProviderConfig, Reference, Texts, Unique


class TestPool(PoolConfig):
    labels: Texts = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.labels


class TestProvider(ProviderConfig):
    must_differ: ClassVar[tuple[Unique, ...]] = (
        *ProviderConfig.must_differ,
        Unique("label", "labels[]", keys=(), scope="pools[]"),
    )
    must_exist: ClassVar[tuple[Reference, ...]] = (Reference("label", "pools[].labels[]", TOP_LABELS),)

    pools: tuple[TestPool, ...] = ()
