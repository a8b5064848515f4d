"""Breakers: a label, pool or provider that fails again and again is paused, probed now and then, and recovers by
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.cli.explain import _pool_lines
from nodelaunch.engine.launch import zones as zones_module
from nodelaunch.engine.provider.breakers import (
    CALLS_IN_A_ROW,
    FIRST_AVOIDED_S,
    LAST_BACKOFF_S,
    LAUNCHES_IN_A_ROW,
    MOST_SPREAD,
    ZONES_DOUBTED_S,
)
from nodelaunch.engine.reporting.explainrpc import ask
from nodelaunch.errors import InsufficientCapacityError, LaunchFailedError, ProviderUnavailableError, Scope
from nodelaunch.protocol.driver import InstanceSpec
from nodelaunch.protocol.states import NodeState, RequestState
from support.launchers import CONFIG, Running, running

pytestmark = pytest.mark.looptime

ZONES = CONFIG.replace("        max-servers:", "        availability-zones: [az1, az2]\n        max-servers:", 1)
TWO = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small, min-ready: {min_ready}}}, {{name: big}}]
providers:
  - name: cloud
    driver: fake
    boot-time: {boot_time}
    launch-retries: 2
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 100, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
  - name: other
    driver: fake
    boot-time: {boot_time}
    launch-retries: 2
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 50, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""


async def roomy(site: Running) -> None:
    """Raise the cloud's limits to hundreds of nodes."""
    site.cloud.update({"max-servers": 1000, "max-cores": 100_000, "max-ram": 10**9})
    runtime = site.launcher.providers["cloud"]
    runtime.invalidate()
    await site.until(lambda: runtime.cloud.limits["cores"] == 100_000)


class Creates:
    """Every create of a provider, and what it ends with, as a test wants it."""

    def __init__(self, site: Running, provider: str = "cloud") -> None:
        self.specs: list[InstanceSpec] = []
        self.fails: Callable[[InstanceSpec], Exception | None] = lambda _spec: None
        self.hangs: Callable[[InstanceSpec], bool] = lambda _spec: False
        driver = site.launcher.providers[provider].driver
        self._create: Callable[[InstanceSpec], Awaitable[str]] = driver.create_instance
        driver.create_instance = self._count  # type: ignore[method-assign]

    async def _count(self, spec: InstanceSpec) -> str:
        self.specs.append(spec)
        await asyncio.sleep(0.1)
        if self.hangs(spec):
            await asyncio.Event().wait()
        if error := self.fails(spec):
            raise error
        return await self._create(spec)

    @property
    def zones(self) -> list[str | None]:
        return [spec.zone for spec in self.specs]


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    with capture_logs() as taken:
        yield taken  # type: ignore[misc]


def away(_spec: InstanceSpec) -> Exception:
    return ProviderUnavailableError("HTTP 503", provider="cloud")


async def explained(site: Running, request_id: str) -> str:
    """Return the output of ``nodelaunch explain`` for the pools of the launcher."""
    processes = [seen.record.id for seen in site.view.presences.values()]
    answers = await ask(site.client.store, request_id, processes)  # type: ignore[arg-type]
    return "\n".join(line for pool in answers.pools for line in _pool_lines(pool))


# -- providers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 200])
async def test_calls_to_a_provider_that_is_away_grow_with_time_and_not_with_launches(
    tmp_path: Path, count: int, lines: list[dict[str, object]]
) -> None:
    """Both counts of launches keep to the same bound, and all are served when it is back."""
    async with running(tmp_path, max_servers=300) as site:
        await roomy(site)
        creates = Creates(site)
        creates.fails = away
        handles = [await site.client.submit(["small"]) for _ in range(count)]
        await asyncio.sleep(5)
        calls = len(creates.specs)
        assert calls <= count + 5, "those that were under way, and probes"
        await asyncio.sleep(200)
        assert 3 <= len(creates.specs) - calls <= 9
        events = [line["event"] for line in lines]
        assert events.count("provider_unavailable") <= CALLS_IN_A_ROW, "one for the breaker, none for a retry"
        creates.fails = lambda _spec: None
        for handle in handles:
            assert (await handle.finished()).state is RequestState.FULFILLED
        assert events.count("provider_available") == 0
        assert [line["event"] for line in lines].count("provider_available") == 1


async def test_provider_that_comes_back_is_not_overrun(tmp_path: Path) -> None:
    async with running(tmp_path, max_servers=300) as site:
        await roomy(site)
        creates = Creates(site)
        creates.fails = away
        handles = [await site.client.submit(["small"]) for _ in range(100)]
        await asyncio.sleep(30)
        creates.fails, before = (lambda _spec: None), len(creates.specs)
        gate = site.launcher.providers["cloud"].breakers.launches
        await site.until(lambda: not gate.is_open)
        await asyncio.sleep(0.05)
        assert len(creates.specs) - before <= 5
        for handle in handles:
            assert (await handle.finished()).state is RequestState.FULFILLED


async def test_requests_go_elsewhere_while_a_provider_is_away_and_the_rest_is_explained(tmp_path: Path) -> None:
    begins = "labels: [{{name: small, cloud-image: image"
    config = TWO.replace(begins, f"{begins}, min-ram: 8192}}}}, {{{{name: big, cloud-image: image", 1)
    async with running(tmp_path, config) as site:
        creates, others = Creates(site), Creates(site, "other")
        creates.fails = away
        begun = [await site.client.submit(["big"]) for _ in range(CALLS_IN_A_ROW)]
        await site.until(lambda: site.launcher.providers["cloud"].breakers.launches.is_open)
        calls = len(creates.specs)
        for _ in range(10):
            assert (await site.finished("small")).state is RequestState.FULFILLED
        assert len(others.specs) == 10
        assert len(creates.specs) - calls <= 5
        waiting = await site.client.submit(["big"])
        await asyncio.sleep(1)
        said = await explained(site, waiting.id)
        assert "cloud/main: deferred\n  because the provider is unavailable: HTTP 503\n" in said
        assert "  breaker of provider cloud, launches: " in said
        assert "failed in a row, open for " in said
        assert " s, next try in " in said
        assert "waits for the provider: HTTP 503" in await explained(site, begun[0].id)
        creates.fails = lambda _spec: None
        for handle in (*begun, waiting):
            assert (await handle.finished()).state is RequestState.FULFILLED
        assert "breaker" not in await explained(site, waiting.id)


async def test_ready_node_is_given_while_nothing_can_be_launched(tmp_path: Path) -> None:
    async with running(tmp_path, min_ready=1) as site:
        await site.until(lambda: bool(site.nodes(NodeState.READY)))
        creates = Creates(site)
        creates.fails = away
        handles = [await site.client.submit(["big"]) for _ in range(CALLS_IN_A_ROW)]
        await site.until(lambda: site.launcher.providers["cloud"].breakers.launches.is_open)
        assert (await site.finished("small")).state is RequestState.FULFILLED
        states = [site.view.requests[handle.id].record.state for handle in handles]
        assert states == [RequestState.PENDING] * len(handles)


async def test_provider_comes_back_where_no_launch_is_left_to_try_it(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        creates = Creates(site)
        creates.fails = away
        handles = [await site.client.submit(["small"]) for _ in range(CALLS_IN_A_ROW)]
        await site.until(lambda: site.launcher.providers["cloud"].breakers.launches.is_open)
        for handle in handles:
            await site.client.store.delete(f"/nodepool/requests/{handle.id}")
        await site.until_empty()
        creates.fails = lambda _spec: None
        assert (await site.finished("small")).state is RequestState.FULFILLED


async def test_call_that_is_stuck_holds_up_nobody_else(tmp_path: Path) -> None:
    """The probe itself: the next launch makes the next one."""
    async with running(tmp_path, max_servers=20) as site:
        creates = Creates(site)
        creates.fails = away
        handles = [await site.client.submit(["small"]) for _ in range(10)]
        await asyncio.sleep(2)
        stuck: list[str] = []
        creates.fails = lambda _spec: None
        creates.hangs = lambda spec: not stuck and (stuck.append(spec.node_id) or True)  # type: ignore[func-returns-value]
        async with asyncio.timeout(2 * LAST_BACKOFF_S):
            await site.until(lambda: len(site.nodes(NodeState.READY)) == 9)
        assert len(stuck) == 1
        states = [(await site.client.store.get(f"/nodepool/requests/{handle.id}")).data for handle in handles]
        assert sum(b'"fulfilled"' in state for state in states) == 9


async def test_creates_that_are_never_answered_open_the_breaker(tmp_path: Path) -> None:
    """The time limit of the launches counts as a failure."""
    config = CONFIG.replace("launch-timeout: 300", "launch-timeout: 20")
    async with running(tmp_path, config) as site:
        creates = Creates(site)
        creates.hangs = lambda _spec: True
        for _ in range(CALLS_IN_A_ROW):
            await site.client.submit(["small"])
        gate = site.launcher.providers["cloud"].breakers.launches
        await site.until(lambda: gate.is_open, within_s=30)
        assert gate.why == "no answer within 20 s"


# -- zones ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [InsufficientCapacityError("no host is left"), LaunchFailedError("it broke")])
async def test_zone_that_fails_is_left_alone_by_all_and_tried_now_and_then(
    tmp_path: Path, error: Exception, lines: list[dict[str, object]]
) -> None:
    async with running(tmp_path, ZONES) as site:
        creates = Creates(site)
        creates.fails = lambda spec: error if spec.zone == "az1" else None
        for _ in range(100):
            if creates.zones.count("az1") == LAUNCHES_IN_A_ROW:
                break
            await site.job("big")
        opened = asyncio.get_running_loop().time()
        for _ in range(10):
            await site.job("big")
        assert asyncio.get_running_loop().time() < opened + FIRST_AVOIDED_S
        assert creates.zones.count("az1") == LAUNCHES_IN_A_ROW
        said = await explained(site, "200-0000000000")
        assert "breaker of zone az1: 3 failed in a row, open for " in said
        await asyncio.sleep(2 * FIRST_AVOIDED_S)
        for _ in range(4):
            await site.job("big")
        assert creates.zones.count("az1") == LAUNCHES_IN_A_ROW + 1, "one probe"
        creates.fails = lambda _spec: None
        await asyncio.sleep(2 * MOST_SPREAD * FIRST_AVOIDED_S)
        await site.job("big")
        assert creates.zones[-1] == "az1"
        events = [line for line in lines if str(line["event"]).startswith("zone_")]
        assert [line["event"] for line in events] == ["zone_unavailable", "zone_available"]
        assert events[0]["detail"] == str(error)


async def test_zone_that_is_away_is_not_the_whole_provider(tmp_path: Path) -> None:
    """The driver's error names the zone; launches in the zone wait, new ones go elsewhere."""
    async with running(tmp_path, ZONES) as site:
        creates = Creates(site)
        gone = ProviderUnavailableError("its hosts are away", provider="cloud", scope=Scope.ZONE)
        creates.fails = lambda spec: gone if spec.zone == "az1" else None
        handles = [await site.client.submit(["big"]) for _ in range(8)]
        breakers = site.launcher.providers["cloud"].breakers
        await asyncio.sleep(10)
        assert (breakers.zones.is_open("az1"), breakers.launches.is_open) == (True, False)
        for _ in range(4):
            await site.job("big")
            assert creates.zones[-1] == "az2"
        creates.fails = lambda _spec: None
        for handle in handles:
            assert (await handle.finished()).state is RequestState.FULFILLED


async def test_only_zone_of_a_pool_goes_on_being_tried(tmp_path: Path) -> None:
    config = ZONES.replace("[az1, az2]", "[az1]")
    async with running(tmp_path, config) as site:
        creates = Creates(site)
        creates.fails = lambda _spec: LaunchFailedError("it broke")
        for number in range(1, 7):
            assert (await site.finished("small")).state is RequestState.FAILED
            assert len(creates.specs) == 2 * number, "each request has all its attempts"
        creates.fails = lambda _spec: None
        assert (await site.finished("small")).state is RequestState.FULFILLED


async def test_zone_is_not_tried_at_the_expense_of_who_has_one_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a probe is due the zone is one of those drawn from; no request is sent there because of it."""
    config = ZONES.replace("launch-retries: 2", "launch-retries: 1")
    async with running(tmp_path, config) as site:
        zones = site.launcher.providers["cloud"].breakers
        for _ in range(LAUNCHES_IN_A_ROW):
            zones.launch_failed("main", "small", "az1", InsufficientCapacityError("no host is left"))
        creates = Creates(site)
        for _ in range(8):
            await site.job("big")
        assert "az1" not in creates.zones
        await asyncio.sleep(MOST_SPREAD * FIRST_AVOIDED_S)
        drawn: list[Sequence[str]] = []
        monkeypatch.setattr(zones_module.random, "choice", lambda zones: drawn.append(zones) or zones[-1])
        await site.job("big")
        assert (drawn[0], creates.zones[-1]) == (["az1", "az2"], "az2")


async def test_cloud_is_not_asked_for_its_zones_by_every_failed_launch(tmp_path: Path) -> None:
    async with running(tmp_path, max_servers=50) as site:
        runtime = site.launcher.providers["cloud"]
        asked, limits = 0, runtime.driver.quota_limits

        async def counted() -> object:
            nonlocal asked
            asked += 1
            return await limits()

        runtime.driver.quota_limits = counted  # type: ignore[method-assign]
        creates = Creates(site)
        creates.fails = lambda _spec: LaunchFailedError("it broke")
        for _ in range(40):
            await site.client.submit(["small"])
            await asyncio.sleep(1)
        assert len(creates.specs) >= 40
        assert asked <= 40 / ZONES_DOUBTED_S + 2


# -- labels ---------------------------------------------------------------------------------------------------------


async def test_label_that_fails_in_one_pool_is_launched_in_another(tmp_path: Path) -> None:
    """The pool where the label fails has more free capacity, so it is chosen again once the label works."""
    async with running(tmp_path, TWO) as site:
        creates, others = Creates(site), Creates(site, "other")
        creates.fails = lambda _spec: LaunchFailedError("it broke")
        for _ in range(10):
            assert (await site.finished("small")).state is RequestState.FULFILLED
        assert len(creates.specs) == LAUNCHES_IN_A_ROW + 1, "the attempts of two requests"
        assert len(others.specs) == 10
        handle = await site.client.submit(["small"])
        await asyncio.sleep(0.5)
        assert "breaker of label small: 4 failed in a row, open for " in await explained(site, handle.id)
        creates.fails = lambda _spec: None
        await asyncio.sleep(2 * MOST_SPREAD * FIRST_AVOIDED_S)
        for _ in range(3):
            assert (await site.finished("small")).state is RequestState.FULFILLED
        assert len(creates.specs) == LAUNCHES_IN_A_ROW + 1 + 3


async def test_label_that_fails_in_its_only_pool_is_tried_and_its_requests_end(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        creates = Creates(site)
        creates.fails = lambda spec: LaunchFailedError("it broke") if spec.label == "small" else None
        for number in range(1, 6):
            assert (await site.finished("small")).state is RequestState.FAILED
            assert sum(spec.label == "small" for spec in creates.specs) == 2 * number
            await site.job("big")
