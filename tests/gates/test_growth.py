"""The cost of a request does not grow with unrelated load: operations and CPU of real launchers.

The launchers of all sizes run side by side, and get requests in turns, so that a busy machine slows all alike. CPU is
that of the launcher's process; of the turns of each size the cheaper half counts, since noise only adds to them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.launchers import LauncherEndedError, Setup, nodelaunch
from bench.loads import Closed, Load
from bench.subject import Subject, opened
from bench.zk.client import ZkError
from bench.zk.server import BenchServer

pytestmark = pytest.mark.gate

TURNS = 8
BUDGET_S = 12.0
"""A size that has taken this long gets no more turns; one is enough to see that it is far too slow."""
SETTLE_S = 2.0
MOST_OPERATIONS = 7.0
SAME_WITHIN = 0.1
"""Operations per request; a ping now and then is counted with them."""
WAITING = 2000
ONE_WINDOW = Closed(50, 150, seconds=10, grace_s=5)
FEW_HOSTS = Closed(5, 150, seconds=10, grace_s=5)
QUEUE = Setup(pools=5, servers=20)
POOLS = {count: f"{count} pools" for count in (1, 10, 50, 200)}


@dataclass(frozen=True)
class Size:
    """A launcher's surroundings, what it is asked in a turn, and in how many turns."""

    setup: Setup
    load: Load = ONE_WINDOW
    turns: int = TURNS


SIZES = {
    **{name: Size(Setup(pools=count)) for count, name in POOLS.items()},
    "10,000 foreign nodes": Size(Setup(foreign_nodes=10_000)),
    "10 hosts": Size(Setup(driver="static", hosts=10), FEW_HOSTS),
    "1,000 hosts": Size(Setup(driver="static", hosts=1000), FEW_HOSTS),
    "100 open": Size(QUEUE, Closed(100, WAITING, seconds=20, grace_s=10), turns=2),
    "2,000 open": Size(QUEUE, Closed(WAITING, WAITING, seconds=20, grace_s=10), turns=2),
}


@dataclass
class Measured:
    """The turns of one size, and what went wrong."""

    turns: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""
    spent_s: float = 0.0

    @property
    def operations(self) -> float:
        """Per request; of the turn that had the fewest pings."""
        self._check()
        return min(turn["operations_per_request"] for turn in self.turns)

    @property
    def cpu_ms(self) -> float:
        """Per request; the mean of the cheaper half of the turns."""
        self._check()
        ordered = sorted(turn["cpu_ms_per_request"] for turn in self.turns)
        half = ordered[: (len(ordered) + 1) // 2]
        return sum(half) / len(half)

    def _check(self) -> None:
        assert not self.trouble, self.trouble
        assert self.turns, "not measured"
        wrong = [turn for turn in self.turns if turn["errors"] or turn["failed"] or not turn["is_complete"]]
        shown = (
            "finished",
            "submitted",
            "failed",
            "nodes_left",
            "first_errors",
            "cpu_ms_per_request",
            "operations_per_request",
        )
        assert not wrong, "\n".join(str({name: turn[name] for name in shown}) for turn in wrong)


@pytest.fixture(scope="module", name="measured")
def measured_fixture(server: BenchServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    return asyncio.run(_measure_all(server, Path(tmp_path_factory.mktemp("launchers"))))


async def _measure_all(server: BenchServer, folder: Path) -> dict[str, Measured]:
    """Measure all sizes in turns; the `Measured` of a size reports its failure."""
    results = {name: Measured() for name in SIZES}
    async with AsyncExitStack() as stack:
        entered = await asyncio.gather(*(_open(stack, server, folder, name, results[name]) for name in SIZES))
        subjects = {name: subject for name, subject in zip(SIZES, entered, strict=True) if subject is not None}
        await asyncio.sleep(SETTLE_S)
        for turn in range(TURNS):
            for name, subject in subjects.items():
                if turn < SIZES[name].turns and results[name].spent_s < BUDGET_S and not results[name].trouble:
                    await _take_turn(subject, SIZES[name].load, results[name])
    return results


async def _open(
    stack: AsyncExitStack, server: BenchServer, folder: Path, name: str, result: Measured
) -> Subject | None:
    size = SIZES[name]
    try:
        return await stack.enter_async_context(opened(server, nodelaunch(), size.setup, folder, settle_s=0.0))
    except (LauncherEndedError, TimeoutError, ZkError, OSError) as error:
        result.trouble = f"{name}: {error!r}"
        return None


async def _take_turn(subject: Subject, load: Load, result: Measured) -> None:
    began = time.monotonic()
    try:
        result.turns.append(await load.run(subject))
    except LauncherEndedError as error:
        result.trouble = str(error)
    result.spent_s += time.monotonic() - began


@pytest.mark.parametrize("name", POOLS.values())
def test_whole_life_of_a_request_takes_few_operations(measured: dict[str, Measured], name: str) -> None:
    """Ratios of CPU would not show what a server has to do."""
    assert measured[name].operations <= MOST_OPERATIONS + SAME_WITHIN


@pytest.mark.parametrize("name", [name for count, name in POOLS.items() if count > 1])
def test_operations_do_not_depend_on_how_many_pools_there_are(measured: dict[str, Measured], name: str) -> None:
    assert measured[name].operations == pytest.approx(measured[POOLS[1]].operations, abs=SAME_WITHIN)


NOISE = 0.3
"""Largest addition to a ratio by other work on a machine of two cores; `python -m bench run scale` measures closer."""
RATIOS: Sequence[tuple[str, str, float]] = (
    (POOLS[50], POOLS[1], 1.2),
    (POOLS[200], POOLS[1], 1.3),
    ("2,000 open", "100 open", 1.2),
    ("10,000 foreign nodes", POOLS[1], 1.1),
    ("1,000 hosts", "10 hosts", 1.2),
)


@pytest.mark.parametrize(("of", "over", "most"), RATIOS)
def test_cpu_of_a_request_does_not_grow(measured: dict[str, Measured], of: str, over: str, most: float) -> None:
    of_ms, over_ms = measured[of].cpu_ms, measured[over].cpu_ms
    assert of_ms <= (most + NOISE) * over_ms, (
        f"{of}: {of_ms:.2f} ms, {over}: {over_ms:.2f} ms, {of_ms / over_ms:.2f} times"
    )
