"""Keys of ``driver: metastatic``. Source: Nodepool 11, metastatic driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from pydantic import Field, StrictBool, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from nodelaunch.config.models import (
    TOP_LABELS,
    Alike,
    LaunchingProviderConfig,
    PoolConfig,
    PoolLabel,
    Reference,
    Seconds,
    Text,
    Unique,
)

BACKING_KEYS: Final[Mapping[str, float | None]] = {
    "max-parallel-jobs": 1,
    "grace-time": 60,
    "min-retention-time": 0,
    "max-age": None,
}
"""Keys that decide how long a backing node is kept, with their defaults."""


class MetastaticLabel(PoolLabel):
    backing_label: Text
    """Label that is requested from other providers."""
    max_parallel_jobs: Annotated[StrictInt, Field(ge=1)] = 1
    """Number of slots on a backing node."""
    grace_time: Seconds = 60.0
    """How long an empty backing node is kept for another node."""
    min_retention_time: Seconds = 0.0
    """Minimum age of a backing node before it is released."""
    max_age: Seconds | None = None
    """Age after which a backing node accepts no more nodes; it is released when it is empty."""
    host_key_checking: StrictBool | None = None
    """None: the pool's value."""

    @model_validator(mode="after")
    def _ages_in_order(self) -> MetastaticLabel:
        if self.max_age is not None and self.max_age < self.min_retention_time:
            raise PydanticCustomError("ages", "max-age must be at least min-retention-time")
        return self


class MetastaticPool(PoolConfig):
    labels: tuple[MetastaticLabel, ...] = ()
    host_key_checking: StrictBool = False
    """If true, the backing node's host keys are scanned each time a slot is assigned."""

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label.name for label in self.labels))

    def checks_host_keys(self, label: MetastaticLabel) -> bool:
        return self.host_key_checking if label.host_key_checking is None else label.host_key_checking


class MetastaticProvider(LaunchingProviderConfig):
    must_differ: ClassVar[tuple[Unique, ...]] = (
        *LaunchingProviderConfig.must_differ,
        Unique("label", "labels[]", scope="pools[]"),
    )
    must_exist: ClassVar[tuple[Reference, ...]] = (Reference("label", "pools[].labels[].name", TOP_LABELS),)
    must_agree: ClassVar[tuple[Alike, ...]] = (
        Alike("pools[].labels[]", "backing-label", BACKING_KEYS),
        Alike("pools[].labels[]", "name", {"backing-label": None, **BACKING_KEYS}),
    )

    pools: tuple[MetastaticPool, ...] = ()
    boot_timeout: Seconds = 120.0
    rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Accepted without effect: no cloud is called."""

    @model_validator(mode="after")
    def _not_on_itself(self) -> MetastaticProvider:
        own = {name for pool in self.pools for name in pool.label_names}
        circular = sorted({label.backing_label for pool in self.pools for label in pool.labels} & own)
        if circular:
            raise PydanticCustomError(
                "backed_by_itself",
                "backing-label {names}: a label of this provider itself; another provider has to offer it",
                {"names": ", ".join(circular)},
            )
        return self

    def label(self, name: str) -> MetastaticLabel | None:
        """Return the label called *name*, which means the same in all pools that have it."""
        return next((label for pool in self.pools for label in pool.labels if label.name == name), None)
