"""Quota arithmetic over named resources: ``cores``, ``instances``, ``ram`` (MiB) and any other that a driver names.

`Limits` and `Usage` are two types, so that a limit (missing: unlimited) can't be mixed with a usage (missing: none).
Amounts are finite, and a usage is never negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Final

INSTANCES: Final = "instances"
CORES: Final = "cores"
RAM: Final = "ram"
_new = object.__new__


class Usage:
    """The used, or needed, amount of each resource. A resource not named is not used. Immutable."""

    __slots__ = ("amounts",)
    amounts: Mapping[str, float]
    """Resource → amount, never 0. Not to be changed."""

    def __init__(self, amounts: Mapping[str, float] | None = None, /, **more: float) -> None:
        merged = {**(amounts or {}), **more} if more else dict(amounts or ())
        self.amounts = merged if all(merged.values()) else {name: value for name, value in merged.items() if value}

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        sums: dict[str, float] = {}
        for usage in usages:
            for name, value in usage.amounts.items():
                sums[name] = sums.get(name, 0) + value
        return cls(sums)

    def __getitem__(self, name: str) -> float:
        return self.amounts.get(name, 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.amounts)

    def __add__(self, other: Usage) -> Usage:
        if not other.amounts:
            return self
        if not self.amounts:
            return other
        sums = dict(self.amounts)
        for name, value in other.amounts.items():
            sums[name] = sums.get(name, 0) + value
        made = _new(Usage)
        made.amounts = sums
        return made

    def __sub__(self, other: Usage) -> Usage:
        """Return the usage that remains without *other*; never below zero."""
        if not other.amounts or not self.amounts:
            return self
        left = dict(self.amounts)
        for name, value in other.amounts.items():
            rest = left.get(name, 0) - value
            if rest > 0:
                left[name] = rest
            elif name in left:
                del left[name]
        made = _new(Usage)
        made.amounts = left
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and self.amounts == other.amounts

    def __hash__(self) -> int:
        return hash(frozenset(self.amounts.items()))

    def __repr__(self) -> str:
        return f"Usage({self.amounts!r})"

    def to_resources(self) -> dict[str, float]:
        """Return the ``resources`` of a node record: cores, instances and ram always, others if used."""
        return {CORES: 0, INSTANCES: 0, RAM: 0, **self.amounts}


class Limits:
    """The amount of each resource that may be used. A resource not named, or at infinity, has no limit. Immutable."""

    __slots__ = ("amounts",)
    amounts: Mapping[str, float]
    """Resource → limit, never infinity. Not to be changed."""

    def __init__(self, amounts: Mapping[str, float | None] | None = None, /, **more: float | None) -> None:
        merged = {**(amounts or {}), **more}
        self.amounts = {name: value for name, value in merged.items() if value is not None and value != inf}

    def __getitem__(self, name: str) -> float:
        return self.amounts.get(name, inf)

    def __iter__(self) -> Iterator[str]:
        return iter(self.amounts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limits) and self.amounts == other.amounts

    def __hash__(self) -> int:
        return hash(frozenset(self.amounts.items()))

    def __repr__(self) -> str:
        return f"Limits({self.amounts!r})"

    def minus(self, *used: Usage) -> Limits:
        """Return the limits that are left; negative if more is used than allowed."""
        uses = [each.amounts for each in used if each.amounts]
        if not uses or not self.amounts:
            return self
        left = dict(self.amounts)
        for amounts in uses:
            for name, value in amounts.items():
                if name in left:
                    left[name] -= value
        made = _new(Limits)
        made.amounts = left
        return made

    def tightest(self, other: Limits) -> Limits:
        """Return the smaller limit of both, resource by resource."""
        if not other.amounts:
            return self
        if not self.amounts:
            return other
        both = dict(self.amounts)
        for name, value in other.amounts.items():
            if value < both.get(name, inf):
                both[name] = value
        made = _new(Limits)
        made.amounts = both
        return made

    def shortages(self, need: Usage) -> tuple[str, ...]:
        """Return the names of the resources of which *need* exceeds the limit, sorted; empty: it fits.

        A resource that is not needed is never short, however overdrawn it is.
        """
        limits, short = self.amounts, []
        for name, value in need.amounts.items():
            if name in limits and value > limits[name]:
                short.append(name)
        return tuple(sorted(short)) if short else ()

    def allows(self, need: Usage) -> bool:
        limits = self.amounts
        for name, value in need.amounts.items():  # noqa: SIM110  # any() of a generator is a call per resource
            if name in limits and value > limits[name]:
                return False
        return True


NO_LIMITS: Final = Limits()
NOTHING: Final = Usage()
