"""Runs scenarios: all launchers and cases in turns, so that what else the machine does strikes all alike."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bench import results
from bench.launchers import LABEL, Kind, LauncherEndedError, Setup, floor
from bench.loads import Closed
from bench.results import Row
from bench.scenarios import Case, Scenario
from bench.subject import SETTLE_S, opened
from bench.zk.client import ZkError
from bench.zk.server import BenchServer, running

RUN_TIMEOUT_S = 1800.0
"""For one run of one case, with its launcher's start and end."""
WARM_UP = Case("warm-up", Setup(), Closed(200, 3000, 30))
"""A server's compiler needs some thousand requests before an operation costs it what it costs for good."""


async def run_case(server: BenchServer, kind: Kind, case: Case, folder: Path) -> Row:
    """The figures of one run, or ``error`` with what went wrong."""
    load = case.load
    try:
        async with (
            asyncio.timeout(RUN_TIMEOUT_S),
            opened(
                server, kind, case.setup, folder, hold_s=load.hold_s, watches_nodes=load.watches_nodes,
                first_request=LABEL if case.is_from_start else "", settle_s=0.0 if case.is_from_start else SETTLE_S,
            ) as subject,
        ):  # fmt: skip
            return await load.run(subject)
    except (LauncherEndedError, TimeoutError, ZkError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def run_scenarios(
    chosen: Sequence[tuple[str, Scenario]], kinds: Sequence[Kind], *, repeat: int, pattern: str, out: Path
) -> Iterator[Row]:
    """Run *chosen* *repeat* times, as far as cases' names match *pattern*; each row is also kept in *out*.

    Raises: LookupError if no case matches.
    """
    about = results.machine()
    if not chosen:
        return
    names = [case.name for _, scenario in chosen for case in scenario.cases]
    if not any(fnmatch(name, pattern) for name in names):
        raise LookupError(f"no case matches {pattern}: the cases are {', '.join(names)}")
    with tempfile.TemporaryDirectory(prefix="bench-") as work, running(Path(work)) as server:
        asyncio.run(run_case(server, floor(), WARM_UP, Path(work)))
        for name, scenario in chosen:
            cases = [case for case in scenario.cases if fnmatch(case.name, pattern)]
            for number, case, kind in turns(repeat, cases, kinds):
                figures = asyncio.run(run_case(server, kind, case, Path(work)))
                row = {**_head(name, case, kind, number), **figures, "about": about}
                results.append(out, row)
                yield row


def turns(repeat: int, cases: Sequence[Case], kinds: Sequence[Kind]) -> Iterator[tuple[int, Case, Kind]]:
    """Yield the runs in order. Every other turn takes the launchers backwards: a server gets faster for many runs, and
    the launcher that always came second would seem the faster one."""
    for number in range(repeat):
        for case in cases:
            for kind in kinds if number % 2 == 0 else reversed(kinds):
                if not case.only or kind.name in case.only:
                    yield number, case, kind


def _head(scenario: str, case: Case, kind: Kind, number: int) -> dict[str, Any]:
    return {
        "scenario": scenario, "case": case.name, "launcher": kind.name, "run": number,
        "setup": dataclasses.asdict(case.setup), "load": dataclasses.asdict(case.load),  # type: ignore[call-overload]
    }  # fmt: skip
