"""How far a driver keeps the contract: the levels, and which checks each asks for.

What does *not* belong here: the checks (checks.py), and what a run found (report.py).
"""

from __future__ import annotations

import enum


class Level(enum.StrEnum):
    """Each asks for all that the one before asks for. ``NONE < BRONZE < SILVER < GOLD``."""

    NONE = "none"
    """Something that even bronze asks for fails, or could not be checked."""
    BRONZE = "bronze"
    """It speaks the contract, and makes, lists and deletes what it is asked for."""
    SILVER = "silver"
    """Nothing it makes is ever lost sight of, whatever fails, is cancelled or happens at the same time."""
    GOLD = "gold"
    """So it is when its process is killed at any moment."""

    @property
    def rank(self) -> int:
        return tuple(Level).index(self)

    # An order of its own: that of the names, which strings have, means nothing.
    def __lt__(self, other: str) -> bool:
        return self.rank < Level(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Level(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Level(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Level(other).rank


LEVELS = (Level.BRONZE, Level.SILVER, Level.GOLD)
"""Those that can be reached."""
