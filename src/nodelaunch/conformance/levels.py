"""The levels of conformance."""

from __future__ import annotations

import enum


class Level(enum.StrEnum):
    """Each level includes the requirements of the level before. ``NONE < BRONZE < SILVER < GOLD``."""

    NONE = "none"
    """A check that bronze requires failed or could not be made."""
    BRONZE = "bronze"
    """The driver speaks the contract, and makes, lists and deletes instances as asked."""
    SILVER = "silver"
    """The driver loses track of no instance when calls fail, are cancelled or run concurrently."""
    GOLD = "gold"
    """The same is true when the driver's process is killed at any moment."""

    @property
    def rank(self) -> int:
        return tuple(Level).index(self)

    # The order of strings would compare the names, which has no meaning here.
    def __lt__(self, other: str) -> bool:
        return self.rank < Level(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Level(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Level(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Level(other).rank


LEVELS = (Level.BRONZE, Level.SILVER, Level.GOLD)
"""Levels that a driver can reach, lowest first."""
