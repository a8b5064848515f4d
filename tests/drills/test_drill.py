"""Three launchers under load on a real ensemble, while servers, connections and launchers break by a seeded schedule.

`NODELAUNCH_DRILL_S` sets for how long, `NODELAUNCH_DRILL_SEED` repeats a schedule; pytest prints both where it fails.
Times on a busy machine differ from run to run, so a seed repeats what befalls whom and when, not every interleaving.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from kazoo.exceptions import NoNodeError

from drills import checker, schedule
from drills.drill import MAX_SERVERS, Drill
from drills.load import Kazoo, Worker, Zuul
from support import txnlog, zookeeper
from support.certificates import Certificates
from support.discipline import kind_of
from support.peer import Requestor
from support.upstream import ZUUL_VERSIONS, zuul_python

SECONDS = float(os.environ.get("NODELAUNCH_DRILL_S", "180"))
SEED = int(os.environ.get("NODELAUNCH_DRILL_SEED") or random.SystemRandom().randrange(1_000_000))
REQUESTORS = 5
"""Besides one Zuul."""
GONE_WITHIN_S = 450.0
"""Time limit after the last fault: a resource made right before a launcher was killed is left alone for five
minutes.
"""
pytestmark = [pytest.mark.zookeeper, pytest.mark.long, pytest.mark.timeout(2 * SECONDS + 1800)]


def test_no_fault_has_a_node_held_twice_lost_or_left_behind(
    tmp_path: Path, certificates: Certificates, record_property: Callable[[str, object], None]
) -> None:
    if reason := zookeeper.why_not() or why_no_zuul():
        pytest.skip(reason)
    sys.stdout.write(f"NODELAUNCH_DRILL_SEED={SEED} NODELAUNCH_DRILL_S={SECONDS:g}\n")
    with ExitStack() as stack:
        drill = stack.enter_context(Drill(tmp_path, certificates, SEED))
        ensemble = drill.ensemble
        looks = Kazoo(ensemble.hosts, drill.chroot)
        stack.callback(looks.close)
        requestors = [Kazoo(ensemble.hosts, drill.chroot) for _ in range(REQUESTORS)]
        for each in requestors:
            stack.callback(each.close)
        zuul = Zuul(ensemble.tls_hosts, drill.chroot, certificates, tmp_path / "zuul.log", looks.requestor)
        stack.callback(zuul.close)
        workers = [Worker(f"requestor {n}", asks, SEED) for n, asks in enumerate([*requestors, zuul])]
        drill.run(schedule.plan(SEED, SECONDS))
        for number in range(schedule.LAUNCHERS):
            drill.start_again(number)
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
        drill.check_alive()
        wrong = [*drill.wrong, *(each for worker in workers for each in worker.wrong)]
        wrong += left_behind(drill, looks.requestor)
        history = txnlog.merged(ensemble.data_folders, drill.chroot)
        with drill.cloud() as cloud:
            uses = [use for worker in workers for use in worker.uses]
            wrong += checker.faults(history.writes, cloud.log(), MAX_SERVERS, uses)
        told = [
            f"ZooKeeper says itself that its trees differ, a possible cause: {each}" for each in ensemble.contradictions
        ]
        outcomes = sum((worker.outcomes for worker in workers), Counter())
        record_property("drill", f"{summary(drill, outcomes, uses)}: {'passed' if not wrong else 'FAILED'}")
        complaints = Counter(entry["event"] for serve in drill.all_serves for entry in serve.complaints)
        sys.stdout.write(
            f"{outcomes}\n{drill.done}\n{drill.skipped}\ncomplaints: {complaints}\n"
            f"Zuul missed {zuul.missed} answers and was started again after {zuul.restarts}\n"
        )
        assert not wrong, "\n".join(map(str, [*wrong, *told]))
        assert outcomes["fulfilled"] > SECONDS / 10
        seen = {write.path for write in history if kind_of(write.path) == "requests" and b'"fulfilled"' in write.data}
        assert len(seen) >= outcomes["fulfilled"], "the history has gaps"


def why_no_zuul() -> str | None:
    """Return why Zuul cannot run here, or None if it can."""
    try:
        zuul_python(ZUUL_VERSIONS[-1])
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        return f"no Zuul: {error}"
    return None


def summary(drill: Drill, outcomes: Counter[str], uses: Sequence[checker.Use]) -> str:
    others = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()) if outcome != "fulfilled")
    skipped = "".join(f", {count} left out ({why})" for why, count in sorted(drill.skipped.items()))
    return (
        f"seed {SEED}, {SECONDS:g} s, {outcomes['fulfilled']} requests fulfilled ({others or 'none failed'}),"
        f" {len(uses)} nodes used, {drill.done.total() - drill.skipped.total()} faults{skipped}"
    )


def left_behind(drill: Drill, requestor: Requestor) -> list[str]:
    """Return the records and instances that remain after the launchers had time to clean up."""

    def found() -> list[str]:
        with drill.cloud() as cloud:
            instances = [f"instance {server.id} {server.name} {server.state}" for server in cloud.servers()]
        nodes = [f"node {name} {_told(requestor, f'nodes/{name}')}" for name in _names(requestor, "nodes")]
        requests = [f"request {name} {_told(requestor, f'requests/{name}')}" for name in _names(requestor, "requests")]
        locks = [
            f"lock of {name}: {held}"
            for name in _names(requestor, "requests-lock")
            if (held := requestor.children(f"/nodepool/requests-lock/{name}"))
        ]
        return [*instances, *nodes, *requests, *locks]

    return _await_none(found)


def _names(requestor: Requestor, kind: str) -> list[str]:
    return requestor.children(f"/nodepool/{kind}")


def _told(requestor: Requestor, path: str) -> object:
    try:
        return requestor.client.get(f"/nodepool/{path}"), requestor.children(f"/nodepool/{path}/lock")
    except NoNodeError:
        return "just gone"


def _await_none(found: Callable[[], list[str]]) -> list[str]:
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := found()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [f"left behind: {each}" for each in left]
