"""Runs the nodelaunch command under cProfile: `python -m bench.profiled OUTPUT serve -c CONFIG`.

SIGRTMIN starts to count the calls of the main thread and creates a marker file; a second SIGRTMIN writes them to
OUTPUT and ends counting. What does *not* belong here: options of the product.
"""

from __future__ import annotations

import cProfile
import pstats
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOGGLE = signal.SIGRTMIN


def calls(profile: Path) -> int:
    """Return the number of all calls in *profile*, of Python functions and of built-in functions."""
    return int(pstats.Stats(str(profile)).total_calls)  # type: ignore[attr-defined]


def python_calls(profile: Path) -> int:
    """Return the number of calls of functions written in Python."""
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    return sum(counts[1] for (file, _, _), counts in stats.items() if file != "~")


def busiest(profile: Path, count: int) -> list[tuple[int, str]]:
    """Return the *count* functions with the most calls: calls and location."""
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    found = [(counts[1], f"{Path(file).name}:{line} {name}") for (file, line, name), counts in stats.items()]
    return sorted(found, reverse=True)[:count]


def marker(output: Path) -> Path:
    """Return the marker file, which exists as soon as counting has started."""
    return output.with_suffix(".began")


class Counter:
    """Turns the profiler on, then writes its counts to *output*."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._profile: cProfile.Profile | None = None

    def toggle(self, _number: int, _frame: object) -> None:
        if self._profile is None:
            self._profile = cProfile.Profile()
            marker(self._output).touch()
            self._profile.enable()
            return
        self._profile.disable()
        partial = self._output.with_suffix(".partial")
        self._profile.dump_stats(partial)
        partial.rename(self._output)
        self._profile = None


def main(arguments: Sequence[str]) -> None:
    output, *sys.argv[1:] = arguments
    signal.signal(TOGGLE, Counter(Path(output)).toggle)
    from nodelaunch.cli.main import main as command

    sys.exit(command())


if __name__ == "__main__":
    main(sys.argv[1:])
