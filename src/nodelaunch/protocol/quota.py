"""Quota arithmetic over named resources: ``cores``, ``instances``, ``ram`` (MiB) and whatever else a driver names.

`Limits` and `Usage` are two types, so that a limit (missing: endless) can't be mixed with a usage (missing: none).
What does *not* belong here: where the figures come from, and what to do when something does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from types import MappingProxyType
from typing import Final

INSTANCES: Final = "instances"
CORES: Final = "cores"
RAM: Final = "ram"


class Usage:
    """How much of each resource is, or would be, used. A resource not named is not used. Immutable."""

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Mapping[str, float] | None = None, /, **more: float) -> None:
        merged = {**(amounts or {}), **more}
        self._amounts = MappingProxyType({name: value for name, value in merged.items() if value})

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        sums: dict[str, float] = {}
        for usage in usages:
            for name in usage:
                sums[name] = sums.get(name, 0) + usage[name]
        return cls(sums)

    def __getitem__(self, name: str) -> float:
        return self._amounts.get(name, 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._amounts)

    def __add__(self, other: Usage) -> Usage:
        return Usage.total((self, other))

    def __sub__(self, other: Usage) -> Usage:
        """What remains when *other* is given back; never below zero."""
        return Usage({name: max(0.0, value - other[name]) for name, value in self._amounts.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and self._amounts == other._amounts

    def __hash__(self) -> int:
        return hash(frozenset(self._amounts.items()))

    def __repr__(self) -> str:
        return f"Usage({dict(self._amounts)!r})"

    def to_resources(self) -> dict[str, float]:
        """As in a node record's ``resources``: cores, instances and ram always, others where used."""
        return {CORES: 0, INSTANCES: 0, RAM: 0, **self._amounts}


class Limits:
    """How much of each resource may be used. A resource not named, or at infinity, has no limit. Immutable."""

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Mapping[str, float | None] | None = None, /, **more: float | None) -> None:
        merged = {**(amounts or {}), **more}
        self._amounts = MappingProxyType(
            {name: value for name, value in merged.items() if value is not None and value != inf}
        )

    def __getitem__(self, name: str) -> float:
        return self._amounts.get(name, inf)

    def __iter__(self) -> Iterator[str]:
        return iter(self._amounts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limits) and self._amounts == other._amounts

    def __hash__(self) -> int:
        return hash(frozenset(self._amounts.items()))

    def __repr__(self) -> str:
        return f"Limits({dict(self._amounts)!r})"

    def minus(self, used: Usage) -> Limits:
        """What is left; negative where more is used than allowed."""
        return Limits({name: value - used[name] for name, value in self._amounts.items()})

    def tightest(self, other: Limits) -> Limits:
        """The smaller of both, resource by resource."""
        return Limits({name: min(self[name], other[name]) for name in {*self, *other}})

    def shortages(self, need: Usage) -> tuple[str, ...]:
        """Names of the resources of which *need* wants more than there is, sorted; empty: it fits.

        A resource that is not needed is never short, however overdrawn it is.
        """
        return tuple(sorted(name for name in need if need[name] > self[name]))

    def allows(self, need: Usage) -> bool:
        return not self.shortages(need)


NO_LIMITS: Final = Limits()
NOTHING: Final = Usage()
