"""Run of a cell: its launchers in virtual time, one of them killed at a point, and the final checks.

The rules of tests/fuzz hold at every moment, too. What does *not* belong here: the list of cells (steps.py).
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crash.steps import Cell, Kind, Lists, Mark, Recovery
from crash.trap import LATE_S, LateCloud, Trap, TrappedDriver, TrappedStore
from fuzz.cloud import CloudEvent, Process
from fuzz.scenario import LauncherPlan
from fuzz.store import SimStore
from fuzz.world import Host, Outcome, World, run_world
from nodelaunch.config.models import Config
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import METADATA_NODE_ID

SETTLE_S = 200.0
"""Time for which the state must stay unchanged at rest: longer than two searches for leaks, and than any call."""
DELETED = re.compile(r"request (\S+) is deleted, was (\w+)")
RELOAD_GRACE_S = 5.0


@dataclass(slots=True)
class Verdict:
    """Verdict on a run: its point, the number of points up to it, and the violations, if any."""

    outcome: Outcome
    where: str
    victim: str
    points: int
    twins: int
    """Number of nodes that had two instances for a while."""

    @property
    def rule(self) -> str | None:
        return self.outcome.rule

    def report(self, cell: Cell, target: int | None) -> str:
        head = f"{cell}, point {target}: {self.victim} killed {self.where}"
        return f"{head}\n{self.outcome.report(f'cd tests; python -m crash {cell.step.name} --point {target}')}"


@dataclass(slots=True)
class Instances:
    """Instances that the cloud had at any moment, by node."""

    alive: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    twins: set[str] = field(default_factory=set)
    """Nodes that had two at once."""

    def on_event(self, event: CloudEvent) -> None:
        if event.what == "create" and event.id is not None:
            mine = self.alive[event.metadata.get(METADATA_NODE_ID, "")]
            mine.add(event.id)
            if len(mine) > 1:
                self.twins.add(event.metadata.get(METADATA_NODE_ID, ""))
        elif event.what == "gone":
            for mine in self.alive.values():
                mine.discard(event.id or "")


class Site(World):
    """The world of one cell."""

    def __init__(self, cell: Cell, outcome: Outcome, target: int | None) -> None:
        super().__init__(cell.scenario(), outcome)
        self.cell = cell
        self.trap = Trap(self._kill, target)
        self.instances = Instances()
        self.clouds = {plan.name: LateCloud(plan.name, self._rng(plan.name)) for plan in self.scenario.clouds}
        self.rules.unruly = self.is_late or cell.step.create_fails > 0
        self._seen: Counter[Mark] = Counter()
        self._gone_for_good: set[str] = set()
        self._killed_sessions: set[int] = set()
        self._is_reloaded = False

    @property
    def is_late(self) -> bool:
        return self.cell.lists is Lists.LATE

    # -- what happens, and when points count -----------------------------------------------------------------------

    def note(self, who: str, what: str) -> None:
        super().note(who, what)
        if who in ("RULE", "log") or self.is_over.is_set():
            return
        step = self.cell.step
        if step.first_killed is not None and self._is_at(step.first_killed, what):
            self._kill_first()
        is_opened, is_closed = self._is_at(step.opens, what), self._is_at(step.closes, what)
        self.trap.is_open = (self.trap.is_open or is_opened) and not is_closed

    def _is_at(self, mark: Mark, what: str) -> bool:
        if not re.search(mark.pattern, what):
            return False
        self._seen[mark] += 1
        return self._seen[mark] == mark.nth

    def _at_work(self) -> Host:
        """Return the launcher that works on a request."""
        holders = {self.rules.holder(paths.request_lock(request_id)) for request_id in self.rules.requests}
        return next(host for host in self.hosts.values() if host.store and host.store.session_id in holders)

    def _kill_first(self) -> None:
        host = self._at_work()
        if self.cell.step.first_stays_away:
            self._gone_for_good.add(host.plan.name)
        self._end(host)
        self.note(host.plan.name, "is killed first")

    def _kill(self, name: str) -> None:
        self.note("world", f"kills {name} {self.trap.where}")
        if self.cell.recovery is Recovery.TAKE_OVER:
            self._gone_for_good.add(name)
        self._end(self.hosts[name])

    def _end(self, host: Host) -> None:
        assert host.process is not None
        assert host.store is not None
        assert host.task is not None
        self._killed_sessions.add(host.store.session_id)
        host.process.is_dead = True
        host.store.die()
        host.task.cancel()

    async def _keep_running(self, host: Host) -> None:
        number = 0
        while host.plan.name not in self._gone_for_good:
            number += 1
            self.rules.calm_since[host.plan.name] = self.loop.time()
            host.task = asyncio.ensure_future(self._run_launcher(host, number))
            await asyncio.wait([host.task])
            if not host.task.cancelled() and (error := host.task.exception()):
                story = "".join(traceback.format_exception(error))
                self.broken("a launcher does not end by itself", f"{host.plan.name}: {story}")
            await asyncio.sleep(self.cell.step.away_s)

    # -- its parts --------------------------------------------------------------------------------------------------

    def _client(self, name: str, factor: Callable[[], float] = lambda: 1.0) -> SimStore:
        if name not in self.hosts:
            return super()._client(name, factor)
        latency = self.scenario.latency_s
        is_embedded = self.cell.store is Kind.EMBEDDED
        return TrappedStore(self.server, name, lambda: latency, self.trap, ends_at_once=is_embedded)

    def _drivers(self, process: Process) -> DriverRegistry:
        def open_driver(config: FakeProvider, context: Any) -> TrappedDriver:
            cloud = self.clouds[config.cloud]
            assert isinstance(cloud, LateCloud)
            return TrappedDriver(config, context, cloud, process, self.trap, is_late=self.is_late)

        return DriverRegistry([DriverPlugin("fake", FakeProvider, open_driver)])

    def _config(self, plan: LauncherPlan) -> Config:
        """Return the configuration: no pool ``extra`` before the reload, no pool ``main`` afterwards."""
        config = super()._config(plan)
        gone = "main" if self._is_reloaded else "extra"
        pools = [tuple(pool for pool in provider.pools if pool.name != gone) for provider in config.providers]
        providers = [
            provider.model_copy(update={"pools": kept, "launch_timeout": 120.0 + self._is_reloaded})
            for provider, kept in zip(config.providers, pools, strict=True)
        ]
        return config.model_copy(update={"providers": tuple(providers)})

    async def _reload(self, _whom: str) -> None:
        self._is_reloaded = True
        running = [host for host in self.hosts.values() if host.launcher is not None]
        await asyncio.gather(*(self._reload_one(host) for host in running))

    async def _reload_one(self, host: Host) -> None:
        if host.launcher is None or host.task is None:
            return
        reloading = asyncio.ensure_future(host.launcher.reload(self._config(host.plan), grace_s=RELOAD_GRACE_S))
        await asyncio.wait([reloading, host.task], return_when=asyncio.FIRST_COMPLETED)
        reloading.cancel()
        await asyncio.gather(reloading, return_exceptions=True)

    async def _drain(self, whom: str, grace: float, away: float) -> None:
        await super()._drain(self._at_work().plan.name, grace, away)

    async def _calm_down(self) -> None:
        """There is only one fault, and it does not pass."""

    def _on_cloud(self, event: CloudEvent) -> None:
        super()._on_cloud(event)
        self.instances.on_event(event)
        if self.instances.twins and not self.is_late:
            self.broken("no instance is made twice for a node", str(self.instances.twins))

    # -- the end ----------------------------------------------------------------------------------------------------

    async def _whole(self) -> None:
        cloud = self.clouds["cloud"]
        if self.is_late:
            cloud.set("list-lag", LATE_S)
        if self.cell.step.create_fails:
            cloud.fail("create", kind="error", times=self.cell.step.create_fails, leave=True, with_id=False)
        await super()._whole()

    async def _rest(self) -> None:
        await super()._rest()
        await asyncio.sleep(SETTLE_S)
        await super()._rest()
        for rule, problems in self._left().items():
            self.rules.must(not problems, rule, "; ".join(problems))

    def _unfinished(self) -> list[str]:
        idle = [node.id for node in self.rules.nodes.values() if node.is_idle]
        surplus = len(idle) - sum(self.cell.step.min_ready.values())
        return [*self.rules.unfinished(), *([f"idle nodes {idle}"] if surplus > 0 else [])]

    def _left(self) -> dict[str, list[str]]:
        """Return the final violations, by rule."""
        ended = Counter(match[2] for _, _, what in self.outcome.events if (match := DELETED.match(what)))
        wanted = {"fulfilled": len(self.scenario.requests) - self.cell.step.failed, "failed": self.cell.step.failed}
        kept = {node.external_id for node in self.rules.nodes.values()}
        orphans = [server.id for server in self.clouds["cloud"].servers() if server.id not in kept]
        ephemeral = [path for session in self._killed_sessions for path in self.server.znodes.owned_by(session)]
        held = [path for path in self._contenders() if self._is_nobodys(path)]
        wrong = [f"{state}: {ended[state]}, not {n}" for state, n in wanted.items() if self._counted(ended, state) != n]
        return {
            "no instance is left behind": orphans,
            "each request ends as it has to": wrong,
            "no lock of the dead is left": [*ephemeral, *held],
        }

    def _counted(self, ended: Counter[str], state: str) -> int:
        """Without requests of the launcher's own, which are for nodes to be kept ready."""
        return ended[state] if self.scenario.requests else 0

    def _contenders(self) -> list[str]:
        roots = (paths.NODES, paths.REQUEST_LOCKS)
        below = [entry.path for root in roots for entry in self.server.znodes.below(root)]
        return [path for path in below if paths.contender_sequence(path.rpartition("/")[2]) is not None]

    def _is_nobodys(self, path: str) -> bool:
        entry = self.server.znodes.find(path)
        return entry is not None and not self.server.has_session(entry.stat.owner)


def run(cell: Cell, target: int | None) -> Verdict:
    """Let the cell's run happen, with a kill at point *target*; None: without, to count the points."""
    outcome = Outcome(cell.scenario())
    site = Site(cell, outcome, target)
    run_world(site)
    if outcome.rule is None and target is not None and not site.trap.where:
        outcome.rule, outcome.detail = "the point is reached", f"there were {site.trap.count} points"
    return Verdict(outcome, site.trap.where, site.trap.victim, site.trap.count, len(site.instances.twins))
