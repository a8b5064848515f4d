"""A simulated run: builds the scenario's processes, runs them in virtual time, and waits until all is at rest.

What does *not* belong here: the rules (rules.py), and the drawing of scenarios (scenario.py).
"""

from __future__ import annotations

import asyncio
import random
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from fuzz.actors import Zuul, operate
from fuzz.clock import NothingToDoError, StandstillError, VirtualLoop
from fuzz.cloud import CloudEvent, Process, SlowDriver, ToldCloud
from fuzz.rules import Rules
from fuzz.scenario import LABELS, NOWHERE, TENANT, Fault, LauncherPlan, ProviderPlan, Scenario, draw
from fuzz.store import SimServer, SimStore
from nodelaunch.config.models import Config, LabelConfig, TenantLimits
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.errors import DriverError, InsufficientCapacityError, LabelUnusableError, QuotaExceededError, StoreError
from nodelaunch.launcher import Launcher
from nodelaunch.operations.pauses import Pauser
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.pauses import Target, TargetKind
from support.fakeclouds import NoScanner
from support.launchers import LoopClock

MAX_READY_AGE_S = 120
REST_LIMIT_S = 5400.0
"""Time limit for coming to rest after the last fault and the last job."""
MAX_TRANSACTIONS = 20_000
"""More are taken for a loop without end."""
LOGGED = 120
"""Events shown of a run that failed."""

Event = tuple[float, str, str]


class BrokenRuleError(AssertionError):
    """A rule did not hold; the message is the whole report."""

    def __init__(self, rule: str, report: str) -> None:
        super().__init__(report)
        self.rule = rule


@dataclass(slots=True)
class Outcome:
    """Outcome of a run: all events, and the rule that did not hold, if any."""

    scenario: Scenario
    events: list[Event] = field(default_factory=list)
    rule: str | None = None
    detail: str = ""
    checks: int = 0

    def report(self, command: str) -> str:
        at = self.events[-1][0] if self.events else 0.0
        last = [f"{when:9.3f}  {who:14s} {what}" for when, who, what in self.events[-LOGGED:]]
        head = [f"seed {self.scenario.seed}: {self.rule}", f"    {self.detail}", f"at {at:.3f} s; the scenario:"]
        return "\n".join([*head, *self.scenario.lines(), "the last events:", *last, f"again: {command}"])


def run(seed: int) -> Outcome:
    """Simulate the scenario of *seed*, until all is at rest or a rule is broken."""
    return run_scenario(draw(seed))


def run_scenario(scenario: Scenario) -> Outcome:
    outcome = Outcome(scenario)
    run_world(World(scenario, outcome))
    return outcome


def run_world(world: World) -> None:
    """Let it happen; what did is in the world's outcome."""
    outcome = world.outcome
    with _determined(world.scenario.seed), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            runner.run(world.run())
        except (StandstillError, NothingToDoError) as error:
            outcome.rule, outcome.detail = "time goes on", f"{type(error).__name__}: {error.__doc__}"
            runner.run(world.kill_all())


@contextmanager
def _determined(seed: int) -> Iterator[None]:
    """Draw from the seed what the code under test draws."""
    drawn = random.Random(f"{seed}/drawn")
    state, uuid4 = random.getstate(), uuid.uuid4
    random.seed(f"{seed}/global")
    uuid.uuid4 = lambda: uuid.UUID(int=drawn.getrandbits(128), version=4)
    try:
        yield
    finally:
        uuid.uuid4 = uuid4
        random.setstate(state)
        structlog.reset_defaults()


@dataclass(eq=False, slots=True)
class Host:
    """Host of a launcher, which is started there again and again."""

    plan: LauncherPlan
    process: Process | None = None
    store: SimStore | None = None
    launcher: Launcher | None = None
    factor: float = 1.0
    """Factor by which its messages are slower than usual."""
    task: asyncio.Task[None] | None = None
    away_s: float = 0.0
    """Time that it stays away after its next end."""
    back: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: it doesn't stay away any longer."""


class World:
    def __init__(self, scenario: Scenario, outcome: Outcome) -> None:
        self.scenario = scenario
        self.outcome = outcome
        self.clock = LoopClock()
        self.server = SimServer(self._rng("server"), self.clock.now)
        self.clouds = {plan.name: ToldCloud(plan.name, self._rng(plan.name)) for plan in scenario.clouds}
        self.rules = Rules(scenario, self.now, self.broken, self.note)
        self.hosts = {plan.name: Host(plan) for plan in scenario.launchers}
        self.is_over = asyncio.Event()
        self.operator: SimStore | None = None
        self._chance = self._rng("chance")
        self._transactions = 0
        self._is_calm = False

    def _rng(self, what: str) -> random.Random:
        return random.Random(f"{self.scenario.seed}/{what}")

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.loop.time()

    # -- telling ----------------------------------------------------------------------------------------------------

    def note(self, who: str, what: str) -> None:
        if not self.is_over.is_set():
            self.outcome.events.append((self.loop.time(), who, what))

    def broken(self, rule: str, detail: str) -> None:
        if not self.is_over.is_set():
            self.note("RULE", f"{rule}: {detail}")
            self.outcome.rule, self.outcome.detail = rule, detail
            self.is_over.set()

    def _capture(self, _logger: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        """Record logs of the code under test; an error breaks a rule: a run has no unforeseen errors."""
        text = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("event", "exc_info"))
        self.note("log", f"{event['event']} {text}")
        if level == "error":
            self.broken("nothing unforeseen is logged", f"{event['event']} {text}\n{traceback.format_exc()}")
        raise structlog.DropEvent

    def _on_loop_error(self, _loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        story = "".join(traceback.format_exception(error)) if error else ""
        self.broken("no task fails unseen", f"{context.get('message')}\n{story}")

    def _on_transaction(self, transaction: Any) -> None:
        self._transactions += 1
        if self._transactions > MAX_TRANSACTIONS:
            self.broken("nothing goes on for ever", f"{MAX_TRANSACTIONS} transactions")
        try:
            self.rules.on_transaction(transaction)
        except Exception:  # for example an unreadable record
            self.broken("every record can be read", traceback.format_exc())

    def _on_cloud(self, event: CloudEvent) -> None:
        self.rules.on_cloud(event)

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self.loop.set_exception_handler(self._on_loop_error)
        structlog.configure(processors=[self._capture], wrapper_class=structlog.make_filtering_bound_logger(20))
        self.server.listeners.append(self._on_transaction)
        for cloud in self.clouds.values():
            cloud.listener = self._on_cloud
        whole = asyncio.ensure_future(self._whole())
        over = asyncio.ensure_future(self.is_over.wait())
        await asyncio.wait([whole, over], return_when=asyncio.FIRST_COMPLETED)
        if whole.done() and not whole.cancelled() and whole.exception() is not None:
            raise whole.exception()  # type: ignore[misc]
        self.outcome.checks = self.rules.checks.total()
        self.is_over.set()
        await self.kill_all()
        whole.cancel()
        over.cancel()
        await asyncio.gather(whole, over, return_exceptions=True)
        for cloud in self.clouds.values():
            cloud.close()

    async def kill_all(self) -> None:
        """Let nothing have any effect any more, so that all can be ended quickly."""
        for host in self.hosts.values():
            if host.store is not None and not host.store.is_dead:
                host.store.die()

    async def _whole(self) -> None:
        scenario = self.scenario
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(self._client("zuul"))
            self.operator = await stack.enter_async_context(self._client("operator"))
            await store.ensure(*paths.ALWAYS_THERE)
            is_doomed = self.rules.doomed.__contains__
            zuul = Zuul(store, self.clock.now, self._client, self.broken, is_doomed)
            zuul.tree = await stack.enter_async_context(store.tree(paths.REQUESTS))
            await stack.enter_async_context(self._hosts_running())
            async with asyncio.TaskGroup() as group:
                for plan in scenario.requests:
                    group.create_task(zuul.job(plan))
                for fault in scenario.faults:
                    group.create_task(self._befall(fault))
                group.create_task(self._calm_down())
                watching = asyncio.ensure_future(self._watch_for_stuck())
            watching.cancel()
            await self._rest()

    @asynccontextmanager
    async def _hosts_running(self) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(self._keep_running(host)) for host in self.hosts.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _calm_down(self) -> None:
        """Once every fault has come: let it be over, so that what waits can be served."""
        await asyncio.sleep(max((fault.at for fault in self.scenario.faults), default=0.0) + 60.0)
        self.note("world", "no more faults")
        self._is_calm = True
        for cloud in self.clouds.values():
            cloud.clear_faults()
            for name in ("unavailable", "missing-images"):
                cloud.set(name, None)
        for host in self.hosts.values():
            host.factor = 1.0
            host.back.set()

    async def _watch_for_stuck(self) -> None:
        """Jobs are done some time after the last of them began and the last fault was over."""
        last = max((plan.at for plan in self.scenario.requests), default=0.0)
        await asyncio.sleep(last + 60.0 + max((fault.at for fault in self.scenario.faults), default=0.0) + REST_LIMIT_S)
        self._note_verdicts()
        self.broken("every request is answered", "; ".join(self._unfinished()[:10]))

    def _note_verdicts(self) -> None:
        """Record the launchers' verdicts on requests that wait."""
        for host in self.hosts.values():
            for key, pool in host.launcher.pools.items() if host.launcher else ():
                for request_id in host.launcher.view.open_requests:
                    verdict = host.launcher.scheduler.explainer.verdict(request_id, key)
                    reasons = "; ".join(map(str, getattr(verdict, "reasons", ())))
                    self.note(pool.ctx.pool_id, f"{type(verdict).__name__} {request_id}: {reasons}")

    async def _rest(self) -> None:
        """Wait until nothing is left to do. What a create left under way may still come: so ask twice."""
        until = self.loop.time() + REST_LIMIT_S
        self.note("world", "every job is done")
        while problems := self._unfinished():
            if self.loop.time() > until:
                self._note_verdicts()
                self.broken("all comes to rest", "; ".join(problems[:10]))
            await asyncio.sleep(5.0)
        self.note("world", "at rest")

    def _unfinished(self) -> list[str]:
        problems = self.rules.unfinished()
        if not self.scenario.faults:  # else a lock's directory may be left for some hours
            problems += [f"lock directory of {name}" for name in self._lock_directories()]
        return problems

    def _lock_directories(self) -> list[str]:
        """Return the lock directories whose requests a launcher has seen vanish. Launchers recognise other stale
        directories only by their age: if no launcher ran yet, or if the directory was made even later, by a client that
        was about to lock it.
        """
        began = self.clock.now() - self.now()
        watched_from = min(plan.starts_at for plan in self.scenario.launchers)
        left = []
        for name in self.server.znodes.children(paths.REQUEST_LOCKS):
            entry = self.server.znodes.find(f"{paths.REQUEST_LOCKS}/{name}")
            if entry is not None:
                made_at = entry.stat.created_at - began
                if watched_from < made_at < self.rules.touched_at(RequestId(name)):
                    left.append(name)
        return left

    # -- launchers --------------------------------------------------------------------------------------------------

    def _client(self, name: str, factor: Callable[[], float] = lambda: 1.0) -> SimStore:
        rng, usual = self._rng(f"line {name}"), self.scenario.latency_s

        def latency() -> float:
            rare = 30.0 if rng.random() < 0.02 else 1.0
            return rng.expovariate(1.0) * 0.3 * usual * rare * factor() if rng.random() < 0.9 else 0.0

        return self.server.connect(name, lambda: min(latency(), 30.0 * usual * factor()))

    async def _keep_running(self, host: Host) -> None:
        await asyncio.sleep(host.plan.starts_at)
        number = 0
        while True:
            number += 1
            self.rules.calm_since[host.plan.name] = self.loop.time()
            host.task = asyncio.ensure_future(self._run_launcher(host, number))
            host.away_s = 0.0
            await asyncio.wait([host.task])
            if not host.task.cancelled() and (error := host.task.exception()):
                story = "".join(traceback.format_exception(error))
                self.broken("a launcher does not end by itself", f"{host.plan.name}: {story}")
            if not self._is_calm:
                with suppress(TimeoutError):
                    async with asyncio.timeout(host.away_s):
                        await host.back.wait()

    async def _run_launcher(self, host: Host, number: int) -> None:
        plan = host.plan
        pauses = self._rng(f"cloud calls of {plan.name} {number}")
        host.process = Process(plan.name, lambda: _call_time(pauses), self._launch_failed)
        host.store = self._client(plan.name, lambda: host.factor)
        self.note(plan.name, "starts")
        host.launcher = Launcher(
            self._config(plan),
            store=host.store,
            drivers=self._drivers(host.process),
            scanner=NoScanner(),
            clock=self.clock,
            hostname=plan.name,
        )
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(host.launcher)
            except StoreError as error:
                self.note(plan.name, f"could not start: {error}")
                return
            await host.launcher.run()
        self.note(plan.name, "has ended")

    def _drivers(self, process: Process) -> DriverRegistry:
        def open_driver(config: FakeProvider, context: Any) -> SlowDriver:
            return SlowDriver(config, context, self.clouds[config.cloud], process)

        return DriverRegistry([DriverPlugin("fake", FakeProvider, open_driver)])

    def _config(self, plan: LauncherPlan) -> Config:
        labels = tuple(
            LabelConfig(name=name, min_ready=plan.min_ready.get(name, 0), max_ready_age=MAX_READY_AGE_S)
            for name in (*LABELS, NOWHERE)
        )
        limit = self.scenario.tenant_servers
        tenants = (TenantLimits(tenant_name=TENANT, max_servers=limit),) if limit else ()
        return Config(
            labels=labels,
            providers=tuple(self._provider(provider) for provider in plan.providers),
            tenant_resource_limits=tenants,
        )

    def _provider(self, plan: ProviderPlan) -> FakeProvider:
        cloud = self.scenario.cloud(plan.cloud)
        return FakeProvider.model_validate({
            "name": plan.name,
            "driver": "fake",
            "cloud": cloud.name,
            "seed": self.scenario.seed,
            "boot-time": cloud.boot_time,
            "delete-time": cloud.delete_time,
            "launch-retries": plan.retries,
            "launch-timeout": plan.launch_timeout,
            "max-concurrency": plan.max_concurrency,
            "limits": {"max-servers": cloud.max_servers},
            "cloud-images": [{"name": "image"}],
            "pools": [
                {
                    "name": pool.name,
                    "max-servers": pool.max_servers,
                    "max-cores": pool.max_cores,
                    "max-volumes": pool.max_volumes,
                    "priority": pool.priority,
                    "ignore-provider-quota": pool.ignores_quota,
                    "availability-zones": list(pool.zones),
                    "labels": [
                        {"name": name, "cloud-image": "image", "min-ram": 8192, "boot-from-volume": name == "disk"}
                        for name in pool.labels
                    ],
                }
                for pool in plan.pools
            ],
        })  # fmt: skip

    def _launch_failed(self, node_id: str, provider: str, error: DriverError) -> None:
        node = self.rules.nodes.get(NodeId(node_id))
        if node is None or isinstance(error, QuotaExceededError):
            return
        request_id = node.allocated_to or ""
        if isinstance(error, InsufficientCapacityError | LabelUnusableError):
            self.rules.final_failures.add((request_id, provider))
        self.rules.failures[request_id, provider] += 1

    # -- what befalls it --------------------------------------------------------------------------------------------

    async def _befall(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        self.note("world", f"{fault.what} {fault.whom} {fault.how or ''}")
        happen: Callable[..., Awaitable[None]] = getattr(self, f"_{fault.what}")
        await happen(fault.whom, **fault.how)

    async def _calls_fail(self, whom: str, **how: Any) -> None:
        self.rules.unruly |= how.get("leave", False)
        self.clouds[whom].fail(**how)

    async def _cloud_down(self, whom: str, lasts: float) -> None:
        self.clouds[whom].set("unavailable", True)
        await asyncio.sleep(lasts)
        self.clouds[whom].set("unavailable", None)

    async def _image_missing(self, whom: str, lasts: float) -> None:
        self.rules.missing_images = True
        self.clouds[whom].set("missing-images", ["image"])
        await asyncio.sleep(lasts)
        self.clouds[whom].set("missing-images", None)

    async def _foreign_server(self, whom: str, lasts: float) -> None:
        server_id = self.clouds[whom].add()
        await asyncio.sleep(lasts)
        self.clouds[whom].remove(server_id)

    async def _server_vanishes(self, whom: str) -> None:
        servers = self.clouds[whom].servers()
        if servers:
            self.clouds[whom].remove(self._chance.choice(servers).id)

    async def _session_lost(self, whom: str, unaware: float, away: float) -> None:
        if (store := self.hosts[whom].store) is not None:
            self.rules.calm_since[whom] = self.loop.time() + unaware + away
            store.expire(unaware, away)

    async def _connection_breaks(self, whom: str, away: float) -> None:
        if (store := self.hosts[whom].store) is not None:
            self.rules.calm_since[whom] = self.loop.time() + away
            store.suspend(away)

    async def _crash(self, whom: str, away: float) -> None:
        host = self.hosts[whom]
        if host.task is None or host.store is None or host.process is None:
            return
        host.process.is_dead = True
        host.store.die()
        host.away_s = away
        host.task.cancel()

    async def _drain(self, whom: str, grace: float, away: float) -> None:
        host = self.hosts[whom]
        if host.launcher is not None and host.task is not None and not host.task.done():
            host.away_s = away
            await host.launcher.drain(grace)

    async def _slow_store(self, whom: str, lasts: float, factor: float) -> None:
        host = self.hosts[whom]
        host.factor = factor
        self.rules.calm_since[whom] = self.loop.time() + lasts
        await asyncio.sleep(lasts)
        host.factor = 1.0

    async def _operator(self, _whom: str, does: str) -> None:
        assert self.operator is not None
        await operate(self.operator, self.clock.now, does, self._chance.choice)

    async def _paused(self, whom: str, lasts: float, drains: bool) -> None:
        """Pauses of one thing may overlap: then the first end ends both."""
        assert self.operator is not None
        kind, _, name = whom.partition(":")
        target, pauser = Target(TargetKind(kind), name), Pauser(self.operator, LoopClock())
        await pauser.pause(target, by="operator", drains=drains)
        self.rules.paused_at[target] = self.rules.now()
        await asyncio.sleep(lasts)
        self.rules.paused_at.pop(target, None)
        await pauser.resume(target)


def _call_time(rng: random.Random) -> float:
    """Return the delay of a call to a cloud, one way: mostly short."""
    return rng.random() * rng.choice((0.0, 0.05, 0.05, 1.0))


__all__ = ["BrokenRuleError", "NothingToDoError", "Outcome", "World", "run", "run_scenario", "run_world"]
