"""How the configuration that a launcher has in force stands to the one that it began with, and to its files.

What does *not* belong here: reading files (reloading.py), and what a change does (launcher.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from nodelaunch.config.changes import differences
from nodelaunch.config.models import Config
from nodelaunch.log import get_logger

log = get_logger(__name__)


class ConfigStanding:
    """One per launcher."""

    def __init__(self, begun: Config) -> None:
        """*begun*: with what the process began."""
        self.restart_needed: tuple[str, ...] = ()
        """Keys whose values take effect at the next start."""
        self._begun = begun

    def follow(self, config: Config) -> None:
        """*config* is in force from now on, but for what a process can't change. Say so where there is any of that."""
        before = self.restart_needed
        self.restart_needed = differences(self._begun, config).needs_restart
        if self.restart_needed and self.restart_needed != before:
            log.warning("restart_needed", keys=list(self.restart_needed))
        elif before and not self.restart_needed:
            log.info("restart_not_needed", keys=list(before))

    def remarks(self) -> list[str]:
        """What an operator has to know, a line each."""
        return remarks(self.restart_needed)


def remarks(restart_needed: Iterable[str]) -> list[str]:
    """What an operator has to know, a line each."""
    keys = ", ".join(restart_needed)
    return [f"restart needed: {keys} changed in the configuration, and can't change in a process"] if keys else []
