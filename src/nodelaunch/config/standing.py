"""How the configuration that a launcher has in force stands to the one that it began with, and to its files.

What does *not* belong here: reading files (reloading.py), and what a change does (launcher.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from nodelaunch.config.changes import differences
from nodelaunch.config.models import Config
from nodelaunch.errors import ConfigProblem
from nodelaunch.log import Logger, get_logger

log: Logger = get_logger(__name__)

MOST_PROBLEMS = 10
"""Problems that are told of."""


class ConfigStanding:
    """One per launcher."""

    def __init__(self, begun: Config) -> None:
        """*begun*: with what the process began."""
        self.restart_needed: tuple[str, ...] = ()
        """Keys whose values take effect at the next start."""
        self.problems: tuple[str, ...] = ()
        """Why the files, as they are, are not in force; empty: they are."""
        self.refused_at: float | None = None
        """Since when they are not, seconds since 1970."""
        self._begun = begun

    def follow(self, config: Config) -> None:
        """*config* is in force from now on, but for what a process can't change. Say so where there is any of that."""
        before = self.restart_needed
        self.restart_needed = differences(self._begun, config).needs_restart
        if self.restart_needed and self.restart_needed != before:
            log.warning("restart_needed", keys=list(self.restart_needed))
        elif before and not self.restart_needed:
            log.info("restart_not_needed", keys=list(before))

    def read(self, problems: Sequence[ConfigProblem], at: float) -> None:
        """The files were read at that time, and are refused if they have *problems*."""
        self.problems = tuple(map(str, problems[:MOST_PROBLEMS]))
        if len(problems) > MOST_PROBLEMS:
            self.problems += (f"... {len(problems) - MOST_PROBLEMS} more",)
        self.refused_at = at if problems else None

    def remarks(self) -> list[str]:
        """What an operator has to know, a line each."""
        return remarks(self.restart_needed, self.problems, self.refused_at)


def remarks(restart_needed: Iterable[str], problems: Iterable[str], refused_at: float | None) -> list[str]:
    """What an operator has to know, a line each."""
    lines = []
    if refused_at is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(refused_at))
        lines.append(f"an older configuration is in force: the files were refused at {since}")
        lines += [f"refused: {problem}" for problem in problems]
    if keys := ", ".join(restart_needed):
        lines.append(f"restart needed: {keys} changed in the configuration, and can't change in a process")
    return lines
