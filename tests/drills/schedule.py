"""Plan of faults, with their targets and times, drawn from a seed; this module does not carry it out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

LAUNCHERS = SERVERS = 3
SESSION_S = 4.0
"""Session timeout of the launchers: some faults are shorter, some longer."""


@dataclass(frozen=True)
class Fault:
    """Fault *kind* of launcher or server *target*, from *at_s* on, for *length_s*."""

    at_s: float
    length_s: float
    kind: str
    target: int


SERVER_KINDS = {
    "freeze-server": (1.0, 12.0),
    "freeze-leader": (1.0, 12.0),
    "freeze-two": (2.0, 9.0),
    "kill-leader": (0.0, 5.0),
    "kill-server": (0.0, 5.0),
    "back-up": (0.0, 0.0),
    "restore": (0.0, 0.0),
    "full-disk": (2.0, 6.0),
}
"""Shortest and longest time of each. One at a time, and the next when all three serve again: what two servers have
acknowledged must not be lost with both of them."""
LAUNCHER_KINDS = {
    "stop": (1.0, 3 * SESSION_S),
    "kill": (0.0, 2 * SESSION_S),
    "partition": (0.5, 3 * SESSION_S),
    "cut": (0.0, 0.0),
    "delay": (2.0, 8.0),
    "swallow": (0.5, 3 * SESSION_S),
    "hold": (0.5, 3 * SESSION_S),
    "lose-replies": (1.0, 5.0),
    "expire": (0.0, 0.0),
}
"""Faults of a launcher and its connections: all connections refused and ended, ended once, slow, replies lost on
the way, packets held back both ways and then let through, single replies lost, the session ended by another client.
"""
GAP_S = (0.5, 6.0)


def plan(seed: int, seconds: float) -> tuple[Sequence[Fault], Sequence[Fault], Sequence[Fault]]:
    """The faults of servers, and of launchers on two tracks; each track is one after the other."""
    return (
        _track(random.Random(f"servers {seed}"), seconds, SERVER_KINDS, range(SERVERS)),
        _track(random.Random(f"launchers {seed}"), seconds, LAUNCHER_KINDS, (0, 1)),
        _track(random.Random(f"another {seed}"), seconds, LAUNCHER_KINDS, (2,)),
    )


def _track(
    rng: random.Random, seconds: float, kinds: dict[str, tuple[float, float]], targets: Sequence[int]
) -> list[Fault]:
    """All kinds in a random order, again and again, so that a short drill has most of them."""
    found: list[Fault] = []
    at_s = rng.uniform(*GAP_S)
    left: list[str] = []
    while at_s < seconds:
        if not left:
            left = rng.sample(list(kinds), len(kinds))
        kind = left.pop()
        fault = Fault(round(at_s, 2), round(rng.uniform(*kinds[kind]), 2), kind, rng.choice(list(targets)))
        found.append(fault)
        at_s += fault.length_s + rng.uniform(*GAP_S)
    return found
