"""Events of a launcher's work, and the metrics that are made of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodelaunch.errors import LaunchFailedError, QuotaExceededError
from nodelaunch.monitoring.metrics import Metrics
from nodelaunch.monitoring.statsd import Statsd
from nodelaunch.protocol.events import BreakerChanged, Event, LaunchEnded, NodeChanged, RequestEnded
from nodelaunch.protocol.states import RequestState
from support.launchers import Running, running

pytestmark = pytest.mark.looptime


class Told:
    """All events of a launcher."""

    def __init__(self, site: Running, *kinds: type[Event]) -> None:
        self.events: list[Event] = []
        site.launcher.events.subscribe(self.events.append, *kinds)

    def of(self, kind: type[Event]) -> list:
        return [event for event in self.events if isinstance(event, kind)]


async def figures(metrics: Metrics) -> dict[str, float]:
    """Return the metrics by name with labels."""
    text = (await metrics.render()).decode()

    def samples() -> Iterator[tuple[str, float]]:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                yield f"{sample.name}{{{labels}}}" if labels else sample.name, sample.value

    return dict(samples())


async def test_life_of_a_request(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=30.0) as site:
        told = Told(site)
        await site.job("small")
        await site.until_empty()
        await site.until(lambda: bool(told.of(RequestEnded)))
        (launch,) = told.of(LaunchEnded)
        assert (launch.result, launch.label, launch.attempt, launch.error) == ("ready", "small", 1, None)
        assert [name for name, _ in launch.stages] == ["queue", "quota", "create", "active", "keys"]
        stages = dict(launch.stages)
        assert stages["active"] == pytest.approx(30.0, abs=1.0)
        assert launch.took_s == pytest.approx(sum(stages.values()) - stages["queue"] - stages["quota"], abs=0.1)
        (ended,) = told.of(RequestEnded)
        assert (ended.outcome, ended.nodes, ended.labels) == ("fulfilled", (launch.node_id,), ("small",))
        assert ended.age_s >= ended.took_s > 29.0
        states = [event.state for event in told.of(NodeChanged)]
        assert states[0] in ("init", "building")
        assert states[-4:] == ["in-use", "used", "deleting", None]


async def test_failed_launches_are_told_with_their_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        told = Told(site, LaunchEnded, BreakerChanged)
        metrics = Metrics(site.launcher)
        driver = site.launcher.providers["cloud"].driver

        async def fail(_spec: object) -> str:
            await asyncio.sleep(1.0)
            raise LaunchFailedError("the cloud says no")

        driver.create_instance = fail
        for _ in range(2):
            assert (await site.finished("small")).state is RequestState.FAILED
        launches = told.of(LaunchEnded)
        assert [(each.result, each.error, each.attempt) for each in launches[:2]] == [
            ("failed", "LaunchFailedError", 1), ("failed", "LaunchFailedError", 2),
        ]  # fmt: skip
        assert launches[1].so_far_s > launches[1].took_s
        assert launches[0].detail is not None
        assert "the cloud says no" in launches[0].detail
        opened = told.of(BreakerChanged)[0]
        assert (opened.provider, opened.what, opened.is_open) == ("cloud", "label small", True)
        found = await figures(metrics)
        assert found["nodelaunch_launch_failures_total{error=LaunchFailedError,pool=main,provider=cloud}"] >= 3
        assert found["nodelaunch_requests_total{outcome=declined,pool=main,provider=cloud}"] == 2
        assert found["nodelaunch_breaker_failures{provider=cloud,what=label small}"] >= 3
        assert found["nodelaunch_driver_call_seconds_count{call=create,provider=cloud,result=LaunchFailedError}"] >= 3


async def test_figures_of_what_there_is(tmp_path: Path) -> None:
    async with running(tmp_path, min_ready=2, boot_time=10.0) as site:
        metrics = Metrics(site.launcher)
        await site.until(lambda: len([node for node in site.nodes() if node.is_idle]) == 2)
        found = await figures(metrics)
        assert found["nodelaunch_nodes{pool=main,provider=cloud,state=ready}"] == 2
        assert found["nodelaunch_label_nodes{label=small,state=ready}"] == 2
        assert found["nodelaunch_pool_limit{pool=main,provider=cloud,resource=instances}"] == 10
        assert found["nodelaunch_pool_used{pool=main,provider=cloud,resource=instances}"] == 2
        assert found["nodelaunch_provider_up{provider=cloud}"] == 1
        assert found["nodelaunch_pool_registered{pool=main,provider=cloud}"] == 1
        assert found["nodelaunch_ready"] == found["nodelaunch_store_connected"] == 1
        assert found["nodelaunch_launches_running{provider=cloud}"] == 0
        assert found["nodelaunch_launch_stage_seconds_count{label=small,provider=cloud,stage=active}"] == 2
        metrics.close()
        await site.job("small")
        after = await figures(metrics)
        name = "nodelaunch_requests_total{outcome=fulfilled,pool=main,provider=cloud}"
        assert after[name] == found[name]


class Pipe:
    """Metrics sent to statsd, in order: kind, name, value."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, float]] = []

    def pipeline(self) -> Pipe:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def timing(self, name: str, value: float) -> None:
        self.sent.append(("timing", name, value))

    def incr(self, name: str) -> None:
        self.sent.append(("incr", name, 1))

    def gauge(self, name: str, value: float) -> None:
        self.sent.append(("gauge", name, value))

    def close(self) -> None:
        pass

    def last(self, name: str) -> float:
        return [value for kind, each, value in self.sent if (kind, each) == ("gauge", name)][-1]


async def test_statsd_has_nodepools_names(tmp_path: Path) -> None:
    async with running(tmp_path, min_ready=1, boot_time=5.0) as site:
        pipe = Pipe()
        async with Statsd(site.launcher, pipe):
            await site.until(lambda: any(node.is_idle for node in site.nodes()))
            await site.until(lambda: ("gauge", "nodepool.nodes.ready", 1) in pipe.sent)
            driver = site.launcher.providers["cloud"].driver
            create, refusals = driver.create_instance, [QuotaExceededError("full"), LaunchFailedError("no")]

            async def fail_twice(spec: object) -> str:
                if refusals:
                    raise refusals.pop(0)
                return await create(spec)

            driver.create_instance = fail_twice
            site.client.requestor = "zuul:one.example"
            request = await site.finished("big")
            assert request.state is RequestState.FULFILLED
            await site.until(lambda: ("gauge", "nodepool.nodes.ready", 2) in pipe.sent)
        counted = [name for kind, name, _ in pipe.sent if kind == "incr"]
        assert "nodepool.launch.provider.cloud.ready" in counted
        assert "nodepool.launch.error.quota" in counted
        assert "nodepool.launch.provider.cloud.error.unknown" in counted
        assert "nodepool.launch.requestor.zuul_one_example.ready" in counted
        assert pipe.last("nodepool.provider.cloud.nodes.ready") == 2
        assert pipe.last("nodepool.label.small.nodes.ready") == 1
        assert pipe.last("nodepool.label.big.nodes.building") == 0
        assert pipe.last("nodepool.provider.cloud.max_servers") == 10
        assert pipe.last("nodepool.provider.cloud.pool.main.addressable_requests") == 1


async def test_statsd_goes_on_after_a_failure_and_costs_the_launcher_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, min_ready=1) as site:
        pipe, failures = Pipe(), [ValueError("no figure")]
        gauge = pipe.gauge

        def fail_once(name: str, value: float) -> None:
            if failures:
                raise failures.pop()
            gauge(name, value)

        pipe.gauge = fail_once  # type: ignore[method-assign]
        async with Statsd(site.launcher, pipe):
            await site.until(lambda: ("gauge", "nodepool.nodes.ready", 1) in pipe.sent)
        assert not failures
