"""The axes of the crash matrix: steps, recoveries, stores, lists; and the cells that they make.

A step is a small run of whole launchers, of which a part is looked at: from the event that opens it to the event that
closes it. What does *not* belong here: how a launcher is killed (trap.py), what has to hold afterwards (site.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from fuzz.scenario import CloudPlan, Fault, LauncherPlan, PoolPlan, ProviderPlan, RequestPlan, Scenario, Use


class Recovery(Enum):
    RESTART = "restart"
    """The same launcher starts again, while the store may still keep what the dead process held."""
    TAKE_OVER = "take-over"
    """The launcher stays away; another launcher, which runs already, has its providers."""


class Kind(Enum):
    """Kind of store."""

    EMBEDDED = "embedded"
    """Sessions end with the process; no other process can have the file meanwhile."""
    ZOOKEEPER = "zookeeper"
    """The session of a dead process lasts until it times out."""


class Lists(Enum):
    AT_ONCE = "at once"
    LATE = "late"
    """The cloud lists what is made, and what is gone, only after a while; what it was asked last still arrives."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The *nth* event whose text *pattern* is found in."""

    pattern: str
    nth: int = 1

    def __post_init__(self) -> None:
        re.compile(self.pattern)


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    what: str
    """Description, for readers, of the step during which the launcher is killed."""
    opens: Mark
    closes: Mark
    requests: tuple[RequestPlan, ...] = ()
    faults: tuple[Fault, ...] = ()
    min_ready: dict[str, int] = field(default_factory=dict)
    boot_time: float = 5.0
    delete_time: float = 1.0
    create_fails: int = 0
    """Number of creates that fail at first, leaving an instance that continues to boot."""
    first_killed: Mark | None = None
    """Point at which another launcher, or an earlier process of the same, is killed beforehand."""
    first_stays_away: bool = False
    failed: int = 0
    """Number of requests that must fail; all others must be fulfilled."""
    away_s: float = 2.0
    """Time until the launcher starts again."""


SMALL = RequestPlan(at=5.0, labels=("small",), used_for=5.0)
ONE_LAUNCH = Mark(r"node \S+: (init -> )?building")
GIVEN = Mark(r"request .* -> fulfilled")

STEPS = (
    Step(
        "start",
        "a launcher starts, registers its pools and launches the nodes for min-ready",
        opens=Mark("^starts"),
        closes=Mark(r"node \S+: building -> ready"),
        min_ready={"small": 1},
    ),
    Step(
        "request",
        "a request for two nodes is locked, accepted, launched and fulfilled; one that no pool can serve is declined",
        opens=Mark("asks for small,big"),
        closes=GIVEN,
        requests=(
            RequestPlan(at=5.0, labels=("small", "big"), used_for=5.0),
            RequestPlan(at=5.5, labels=("nowhere",)),
        ),
        failed=1,
    ),
    Step(
        "launch",
        "a node is launched; the first create fails and leaves an instance, the next one succeeds",
        opens=ONE_LAUNCH,
        closes=GIVEN,
        requests=(SMALL,),
        create_fails=1,
    ),
    Step(
        "adoption",
        "a launcher was killed in the middle of a launch; it restarts and resumes the launch",
        opens=Mark("^is killed first"),
        closes=GIVEN,
        requests=(SMALL,),
        boot_time=30.0,
        first_killed=Mark("^active|create "),
    ),
    Step(
        "reuse",
        "an idle node is given to the next request",
        opens=Mark("asks for small", 2),
        closes=Mark("request .* -> fulfilled", 2),
        requests=(
            RequestPlan(at=5.0, labels=("small",), use=Use.UNUSED),
            RequestPlan(at=30.0, labels=("small", "small"), used_for=5.0),
        ),
    ),
    Step(
        "hold",
        "clients hold nodes while the launcher is away: one returns its node, one dies, one puts its node on hold",
        opens=Mark("in-use", 3),
        closes=Mark("-> (used|hold)"),
        requests=(
            RequestPlan(at=5.0, labels=("small",), used_for=90.0),
            RequestPlan(at=5.0, labels=("big",), used_for=85.0, use=Use.DIE_LATE),
            RequestPlan(at=5.0, labels=("small",), used_for=95.0, use=Use.HOLD),
        ),
        away_s=120.0,
    ),
    Step(
        "delete",
        "a node that was used is deleted, with its instance and its record",
        opens=Mark("-> used"),
        closes=Mark("node .* is removed"),
        requests=(SMALL,),
        delete_time=5.0,
    ),
    Step(
        "reload",
        "the configuration changes while a request is served: its pool is removed, another added, the driver replaced",
        opens=Mark("^reload"),
        closes=Mark("request .* -> fulfilled", 3),
        requests=(
            RequestPlan(at=5.0, labels=("disk",), use=Use.UNUSED),
            RequestPlan(at=30.0, labels=("disk", "disk"), used_for=5.0),
            RequestPlan(at=31.0, labels=("big",), used_for=5.0),
        ),
        faults=(Fault(35.0, "reload", ""),),
        boot_time=20.0,
    ),
    Step(
        "take-over",
        "a launcher was killed in the middle of a launch, and another takes over its work",
        opens=Mark("loses requests-lock"),
        closes=GIVEN,
        requests=(SMALL,),
        boot_time=30.0,
        first_killed=Mark("create "),
        first_stays_away=True,
    ),
    Step(
        "drain",
        "a launcher ends in order and hands back its running requests",
        opens=Mark("^drain"),
        closes=Mark("has ended"),
        requests=(SMALL, RequestPlan(at=6.0, labels=("big", "small"), used_for=1.0)),
        boot_time=20.0,
        faults=(Fault(8.0, "drain", "", {"grace": 5.0, "away": 2.0}),),
    ),
)


@dataclass(frozen=True, slots=True)
class Cell:
    step: Step
    recovery: Recovery
    store: Kind
    lists: Lists

    def __str__(self) -> str:
        return f"{self.step.name} / {self.recovery.value} / {self.store.value} / {self.lists.value}"

    @property
    def launchers(self) -> int:
        return 1 + (self.recovery is Recovery.TAKE_OVER) + self.step.first_stays_away

    def scenario(self) -> Scenario:
        """Return the events of the cell, apart from the kill."""
        step = self.step
        cloud = CloudPlan("cloud", 12, step.boot_time, step.delete_time)
        pools = (
            PoolPlan("main", ("small", "disk"), 4),
            PoolPlan("spare", ("small", "big"), 4),
            PoolPlan("extra", ("small", "disk"), 4),
        )
        provider = ProviderPlan("prov", "cloud", pools)
        names = [f"nl{number}" for number in range(self.launchers)]
        plans = tuple(LauncherPlan(name, (provider,), step.min_ready) for name in names)
        return Scenario(0, (cloud,), plans, step.requests, step.faults, latency_s=0.002)


def cells() -> Iterator[Cell]:
    """Yield all cells. An embedded store belongs to one process: no other launcher can take over."""
    for step in STEPS:
        for store in Kind:
            for recovery in Recovery:
                is_shared = recovery is Recovery.TAKE_OVER or step.first_stays_away
                if not (is_shared and store is Kind.EMBEDDED):
                    yield from (Cell(step, recovery, store, lists) for lists in Lists)
