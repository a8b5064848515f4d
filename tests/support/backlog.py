"""A backlog of mixed requests on a cloud that is full all the time, and what was seen of how it is worked off."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

from nodelaunch.engine.view import RequestSeen, ViewEvent
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.states import RequestState
from support.launchers import Running, running

CAPACITY = 20
REQUESTS = 300
CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}, {{name: medium}}, {{name: large}}]
providers:
  - name: cloud
    driver: fake
    boot-time: 2
    delete-time: 1
    limits: {{max-servers: 20}}
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        labels:
          - {{name: small, cloud-image: image, min-ram: 8192}}
          - {{name: medium, cloud-image: image, min-ram: 8192}}
      - name: second
        labels:
          - {{name: medium, cloud-image: image, min-ram: 8192}}
          - {{name: large, cloud-image: image, min-ram: 8192}}
"""


class Witness:
    """Notes which requests were open when each was taken."""

    def __init__(self, site: Running) -> None:
        self._site = site
        self._taken: dict[RequestId, float] = {}
        self._open_then: list[tuple[RequestId, RequestId]] = []
        self.last_taken_at = 0.0

    def __call__(self, event: ViewEvent) -> None:
        request = self._site.view.request(event.id) if isinstance(event, RequestSeen) else None
        if request is None or request.id in self._taken or request.state is not RequestState.PENDING:
            return
        self._taken[request.id] = self.last_taken_at = asyncio.get_running_loop().time()
        for seen in self._site.view.requests.values():
            if seen.record.state is RequestState.REQUESTED and seen.record.order < request.order:
                self._open_then.append((seen.record.id, request.id))

    @property
    def overtaken(self) -> list[tuple[RequestId, RequestId]]:
        """Pairs of a request and another of later order that was taken at an earlier time."""
        return [(one, other) for one, other in self._open_then if self._taken[one] > self._taken[other]]


def usage(log: list[dict[str, object]]) -> list[tuple[float, int]]:
    """Return the number of servers over time, as pairs of time and number."""
    steps, there = [], 0
    for entry in log:
        change = {"create": 1, "gone": -1}.get(str(entry["what"]), 0)
        if change:
            there += change
            steps.append((float(str(entry["at"])), there))
    return steps


def utilisation(steps: list[tuple[float, int]], start: float, end: float) -> float:
    """Share of the capacity in use between *start* and *end*."""
    area = 0.0
    for (since, there), (until, _) in zip(steps, [*steps[1:], (end, 0)], strict=True):
        area += there * max(0.0, min(until, end) - max(since, start))
    return area / ((end - start) * CAPACITY)


@dataclass(frozen=True)
class Report:
    """Results of a run. ``utilisation``: share of the capacity in use from when the cloud was first full until the last
    request was taken. ``overtaken``: see `Witness`.
    """

    most: int
    utilisation: float
    overtaken: list[tuple[RequestId, RequestId]]


async def work_off(folder: Path, seed: int) -> Report:
    """`REQUESTS` random requests of three labels over two pools, all at once; each keeps its nodes for 1 to 3 minutes
    of the loop's time."""
    rng = random.Random(seed)
    async with running(folder, CONFIG) as site:
        await site.until(lambda: len(site.view.pools) == 2)
        witness = Witness(site)
        site.view.subscribe(witness)

        async def job() -> None:
            labels = [rng.choice(("small", "medium"))] if rng.random() < 0.5 else [rng.choice(("medium", "large"))]
            labels *= rng.choice((1, 1, 1, 2, 2, 3))
            options = {"priority": rng.choice(("100", "200", "300")), "relative_priority": rng.randrange(4)}
            hold_s = rng.uniform(60, 180)
            request = await site.finished(*labels, **options)
            assert request.state is RequestState.FULFILLED
            async with site.client.hold(request) as nodes:
                assert [node.type[0] for node in nodes] == labels
                await asyncio.sleep(hold_s)

        await asyncio.gather(*(job() for _ in range(REQUESTS)))
        await site.until_empty()
        steps = usage(site.cloud.log())
        full_at = next(at for at, there in steps if there == CAPACITY)
        began_at = site.cloud.now - asyncio.get_running_loop().time()
        share = utilisation(steps, full_at, began_at + witness.last_taken_at)
        return Report(max(there for _, there in steps), share, witness.overtaken)
