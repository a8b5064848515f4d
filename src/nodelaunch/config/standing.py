"""Compares a launcher's configuration in force with its initial configuration, and with its files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from nodelaunch.config.changes import differences
from nodelaunch.config.models import Config
from nodelaunch.errors import ConfigProblem
from nodelaunch.log import Logger, get_logger

log: Logger = get_logger(__name__)

MOST_PROBLEMS = 10
"""The most problems that are reported."""


class ConfigStanding:
    """The differences of one launcher's configuration in force to its initial one and to its files."""

    def __init__(self, initial: Config) -> None:
        """*initial*: the configuration at the start of the process."""
        self.restart_needed: tuple[str, ...] = ()
        """Keys whose values take effect at the next start."""
        self.problems: tuple[str, ...] = ()
        """Reasons why the present files are not in force; empty if they are."""
        self.refused_at: float | None = None
        """The time, in seconds since 1970, since when the files are not in force."""
        self._initial = initial

    def follow(self, config: Config) -> None:
        """Record that *config* is in force, except keys that need a restart; log these."""
        before = self.restart_needed
        self.restart_needed = differences(self._initial, config).needs_restart
        if self.restart_needed and self.restart_needed != before:
            log.warning("restart_needed", keys=list(self.restart_needed))
        elif before and not self.restart_needed:
            log.info("restart_not_needed", keys=list(before))

    def read(self, problems: Sequence[ConfigProblem], at: float) -> None:
        """Record that the files were read at time *at*; with *problems* they were refused."""
        self.problems = tuple(map(str, problems[:MOST_PROBLEMS]))
        if len(problems) > MOST_PROBLEMS:
            self.problems += (f"... {len(problems) - MOST_PROBLEMS} more",)
        self.refused_at = at if problems else None

    def remarks(self) -> list[str]:
        """Return the remarks for an operator, a line each."""
        return remarks(self.restart_needed, self.problems, self.refused_at)


def remarks(restart_needed: Iterable[str], problems: Iterable[str], refused_at: float | None) -> list[str]:
    """Return the remarks for an operator, a line each."""
    lines = []
    if refused_at is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(refused_at))
        lines.append(f"an older configuration is in force: the files were refused at {since}")
        lines += [f"refused: {problem}" for problem in problems]
    if keys := ", ".join(restart_needed):
        lines.append(f"restart needed: {keys} changed in the configuration, and take effect only after a restart")
    return lines
