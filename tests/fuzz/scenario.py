"""Plan of a simulated run, drawn from its seed: its processes, its requests, and its faults with their times.

What does *not* belong here: carrying it out (world.py, actors.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

LABELS = ("small", "big", "disk")
"""``disk`` boots from a volume, of which a pool may have fewer than servers."""
NOWHERE = "nowhere"
"""A label no pool offers."""
TENANT = "limited"
PAUSED_FROM = 1_000_000
"""First seed with pauses and drains by operators."""
CORES, RAM = 4, 8192
"""Size of each server: the fake cloud's only flavor."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    name: str
    labels: tuple[str, ...]
    max_servers: int
    max_cores: int | None = None
    max_volumes: int | None = None
    priority: int = 100
    ignores_quota: bool = False
    zones: tuple[str, ...] = ()

    def fits(self, labels: Sequence[str]) -> bool:
        """Return whether all of *labels* fit at once into the empty provider."""
        count, disks = len(labels), labels.count("disk")
        return (
            set(labels) <= set(self.labels)
            and count <= self.max_servers
            and (self.max_cores is None or count * CORES <= self.max_cores)
            and (self.max_volumes is None or disks <= self.max_volumes)
        )


@dataclass(frozen=True, slots=True)
class ProviderPlan:
    name: str
    cloud: str
    pools: tuple[PoolPlan, ...]
    max_concurrency: int = -1
    retries: int = 2
    launch_timeout: float = 120.0


@dataclass(frozen=True, slots=True)
class CloudPlan:
    name: str
    max_servers: int
    boot_time: float
    delete_time: float


@dataclass(frozen=True, slots=True)
class LauncherPlan:
    name: str
    providers: tuple[ProviderPlan, ...]
    min_ready: dict[str, int]
    starts_at: float = 0.0


class Use(Enum):
    """Use of a request's nodes once the request is fulfilled."""

    RETURN = "used and given back"
    UNUSED = "taken and given back unused"
    DIE_EARLY = "the executor dies between taking and using"
    DIE_LATE = "the executor dies while it uses them"
    HOLD = "held for a while"
    CANCEL = "the request is deleted just after it was fulfilled"


@dataclass(frozen=True, slots=True)
class RequestPlan:
    at: float
    labels: tuple[str, ...]
    priority: str = "200"
    relative_priority: int = 0
    revised_after: float | None = None
    provider: str | None = None
    tenant: str | None = None
    cancelled_after: float | None = None
    use: Use = Use.RETURN
    taken_after: float = 0.0
    used_for: float = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    what: str
    """A method of chaos.Chaos."""
    whom: str
    how: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    seed: int
    clouds: tuple[CloudPlan, ...]
    launchers: tuple[LauncherPlan, ...]
    requests: tuple[RequestPlan, ...]
    faults: tuple[Fault, ...]
    latency_s: float
    """Usual delay of a message, in one direction."""
    tenant_servers: int | None = None

    def cloud(self, name: str) -> CloudPlan:
        return next(plan for plan in self.clouds if plan.name == name)

    def lines(self) -> list[str]:
        """Return a description for readers, a line for each part."""
        things: list[Any] = [*self.clouds, *self.launchers, *self.requests, *self.faults]
        head = f"seed {self.seed}, messages take {self.latency_s:g} s, tenant limit {self.tenant_servers}"
        return [head, *(f"  {thing}" for thing in things)]


def draw(seed: int) -> Scenario:
    """The scenario of *seed*."""
    return _Draw(random.Random(f"{seed}/scenario"), seed).scenario()


class _Draw:
    def __init__(self, rng: random.Random, seed: int) -> None:
        self.rng = rng
        self.seed = seed
        self.duration = rng.uniform(30.0, 200.0)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def scenario(self) -> Scenario:
        rng = self.rng
        clouds = tuple(self.cloud(f"cloud{n}") for n in range(rng.choice((1, 1, 2))))
        count = rng.choice((1, 1, 2, 2, 3))
        providers = tuple(self.provider(f"prov{n}", rng.choice(clouds), is_alone=count == 1) for n in range(count))
        launchers = tuple(self.launcher(f"nl{n}", providers) for n in range(rng.choice((1, 1, 1, 2, 2, 3))))
        kept = sum(sum(launcher.min_ready.values()) for launcher in launchers)
        clouds = tuple(replace(cloud, max_servers=cloud.max_servers + kept) for cloud in clouds)
        used = {p.name for launcher in launchers for p in launcher.providers}
        tenant = rng.randint(1, 4) if self.chance(0.4) else None
        requests = tuple(self.request(sorted(used), tenant) for _ in range(rng.randint(3, 18)))
        faults: tuple[Fault, ...] = ()
        if self.chance(0.8):
            names = [launcher.name for launcher in launchers]
            faults = tuple(self.fault(clouds, names) for _ in range(rng.randint(1, 8)))
        latency = rng.choice((0.0005, 0.002, 0.002, 0.02, 0.1))
        if self.seed >= PAUSED_FROM:
            faults += tuple(self.pause(launchers) for _ in range(rng.randint(1, 4)))
        by_time = sorted(requests, key=lambda plan: plan.at)
        return Scenario(self.seed, clouds, launchers, tuple(by_time), faults, latency, tenant)

    def cloud(self, name: str) -> CloudPlan:
        rng = self.rng
        return CloudPlan(name, rng.randint(2, 10), rng.choice((0.0, 1.0, 5.0, 20.0)), rng.choice((0.0, 1.0, 10.0)))

    def provider(self, name: str, cloud: CloudPlan, *, is_alone: bool) -> ProviderPlan:
        rng = self.rng
        pools = tuple(self.pool(f"pool{n}", cloud, is_alone) for n in range(rng.choice((1, 1, 1, 2))))
        return ProviderPlan(
            name, cloud.name, pools, max_concurrency=rng.choice((-1, -1, 1, 3)), retries=rng.choice((1, 2, 3))
        )

    def pool(self, name: str, cloud: CloudPlan, is_alone: bool) -> PoolPlan:
        """A pool that ignores the cloud's quota is one whose operator knows that its limits are met."""
        rng = self.rng
        ignores_quota = is_alone and self.chance(0.1)
        return PoolPlan(
            name,
            labels=tuple(rng.sample(LABELS, rng.choice((1, 2, 3, 3)))),
            max_servers=rng.randint(1, cloud.max_servers + (not ignores_quota)),
            max_cores=CORES * rng.randint(1, 6) if self.chance(0.2) else None,
            max_volumes=rng.randint(1, 2) if self.chance(0.4) else None,
            priority=rng.choice((100, 100, 100, 50)),
            ignores_quota=ignores_quota,
            zones=("az1", "az2") if self.chance(0.3) else (),
        )

    def launcher(self, name: str, providers: tuple[ProviderPlan, ...]) -> LauncherPlan:
        rng = self.rng
        mine = sorted(rng.sample(range(len(providers)), rng.randint(1, len(providers))))
        min_ready = {label: rng.choice((0, 0, 1, 2)) for label in LABELS} if self.chance(0.5) else {}
        return LauncherPlan(name, tuple(providers[n] for n in mine), min_ready, self.chance(0.3) * rng.uniform(0, 20))

    def request(self, providers: list[str], tenant: int | None) -> RequestPlan:
        rng = self.rng
        labels = rng.choices((*LABELS, NOWHERE), (10, 8, 6, 0.5), k=rng.choice((1, 1, 1, 2, 2, 3, 4)))
        if self.chance(0.4):
            labels = [labels[0]] * len(labels)
        return RequestPlan(
            at=rng.uniform(0.0, self.duration * rng.choice((0.1, 1.0))),
            labels=tuple(labels),
            priority=rng.choice(("100", "200", "200", "300")),
            relative_priority=rng.choice((0, 0, 0, 1, 5)),
            revised_after=rng.uniform(0.0, 10.0) if self.chance(0.2) else None,
            provider=rng.choice(providers) if self.chance(0.1) else None,
            tenant=rng.choice((TENANT, "other")) if tenant else None,
            cancelled_after=rng.choice((0.01, 0.1, 1.0, 5.0, 30.0)) * rng.random() * 2 if self.chance(0.25) else None,
            use=rng.choices(list(Use), (10, 2, 2, 2, 2, 2))[0],
            taken_after=rng.choice((0.0, 0.5, 10.0)) * rng.random(),
            used_for=rng.choice((0.0, 5.0, 40.0)) * rng.random(),
        )

    def pause(self, launchers: tuple[LauncherPlan, ...]) -> Fault:
        rng = self.rng
        launcher = rng.choice(launchers)
        provider = rng.choice(launcher.providers)
        pool = f"{provider.name}/{rng.choice(provider.pools).name}"
        whom = rng.choice((f"provider:{provider.name}", f"pool:{pool}", f"launcher:{launcher.name}"))
        lasts = rng.choice((1.0, 10.0, 60.0)) * rng.random()
        return Fault(rng.uniform(0.0, self.duration), "paused", whom, {"lasts": lasts, "drains": self.chance(0.5)})

    def fault(self, clouds: tuple[CloudPlan, ...], launchers: list[str]) -> Fault:
        rng = self.rng
        at = rng.uniform(0.0, self.duration)
        cloud, launcher = rng.choice(clouds).name, rng.choice(launchers)
        often, lasts = rng.randint(1, 4), rng.choice((0.5, 5.0, 30.0)) * rng.random() * 2
        kinds: list[tuple[float, Fault]] = [
            (3, Fault(at, "calls_fail", cloud, {"call": "create", "kind": rng.choice(("error", "timeout", "capacity")),
                      "times": often, "leave": self.chance(0.3), "with_id": self.chance(0.5)})),
            (2, Fault(at, "calls_fail", cloud, {"call": "create", "kind": "quota", "times": often})),
            (2, Fault(at, "calls_fail", cloud, {"call": "create", "kind": "unavailable", "times": often,
                      "leave": self.chance(0.5), "with_id": self.chance(0.5)})),
            (2, Fault(at, "calls_fail", cloud, {"call": "boot", "times": often,
                      "kind": rng.choice(("error", "quota", "capacity", "never"))})),
            (2, Fault(at, "calls_fail", cloud, {"call": "delete", "times": often,
                      "kind": rng.choice(("error", "unavailable", "never"))})),
            (2, Fault(at, "calls_fail", cloud, {"call": rng.choice(("wait", "list", "limits", "images")),
                      "times": often})),
            (2, Fault(at, "cloud_down", cloud, {"lasts": lasts})),
            (1, Fault(at, "image_missing", cloud, {"lasts": lasts})),
            (1, Fault(at, "foreign_server", cloud, {"lasts": lasts * 5})),
            (2, Fault(at, "server_vanishes", cloud, {})),
            (5, Fault(at, "session_lost", launcher, {"unaware": rng.choice((0.0, 0.05, 1.0)) * rng.random(),
                      "away": rng.choice((0.0, 0.5, 5.0)) * rng.random()})),
            (2, Fault(at, "connection_breaks", launcher, {"away": rng.choice((0.1, 5.0)) * rng.random()})),
            (4, Fault(at, "crash", launcher, {"away": lasts})),
            (2, Fault(at, "drain", launcher, {"grace": rng.choice((0.0, 5.0, 30.0)), "away": lasts})),
            (2, Fault(at, "slow_store", launcher, {"lasts": lasts, "factor": rng.choice((10.0, 50.0))})),
            (2, Fault(at, "operator", "", {"does": rng.choice(("hold", "delete"))})),
        ]  # fmt: skip
        return rng.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]
