"""Choice of the pool for a request, and order of requests. A test has the name of Nodepool's test of the same
behaviour.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.errors import LaunchFailedError
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import ExternalId, InstanceSpec
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.store import Changed, TreeEvent
from support.launchers import LoopClock
from support.sites import Data, Site, config, is_paused, launched, pool, provider, shared_store

pytestmark = pytest.mark.looptime


def _two_clouds(*labels: str, **of_other: Any) -> tuple[Data, Data]:
    """Providers ``cloud`` and ``other``, both with label ``small``."""
    return provider(pool("small"), name="cloud"), provider(pool("small", *labels), name="other", **of_other)


def _pool_id(site: Site, name: str) -> str:
    return site.launcher.pools[name, "main"].ctx.pool_id


async def test_invalid_image_fails(tmp_path: Path) -> None:
    async with launched(tmp_path, config(*_two_clouds(), labels={"nowhere": {}})) as site:
        for name in ("nowhere", "never-heard-of"):
            request = await site.failed(name)
            assert set(request.declined_by) == {_pool_id(site, "cloud"), _pool_id(site, "other")}


async def test_multiple_launcher(tmp_path: Path) -> None:
    """Two launchers that both are to keep a node ready keep one between them."""
    tops = {
        name: config(provider(pool("small"), name=name, boot_time=20), labels={"small": {"min-ready": 1}})
        for name in ("cloud", "other")
    }
    for name in tops:
        (tmp_path / name).mkdir()
    async with (
        shared_store() as store,
        launched(tmp_path / "cloud", tops["cloud"], store=store, hostname="one") as first,
        launched(tmp_path / "other", tops["other"], store=store, hostname="two") as second,
    ):
        await first.until_idle(1)
        await first.a_while()
        assert len(first.idle) == 1
        assert len(first.creates("cloud")) + len(second.creates("other")) == 1


async def test_node_request_provider(tmp_path: Path) -> None:
    async with launched(tmp_path, config(*_two_clouds())) as site:
        for name in ("other", "cloud", "other"):
            nodes = await site.got("small", "small", provider=name)
            assert [node.provider for node in nodes] == [name, name]


async def test_node_request_invalid_provider(tmp_path: Path) -> None:
    async with launched(tmp_path, config(*_two_clouds())) as site:
        assert len(await site.got("small", provider="nobody")) == 1


async def test_node_request_provider_label_mismatch(tmp_path: Path) -> None:
    async with launched(tmp_path, config(*_two_clouds("special"))) as site:
        (node,) = await site.got("special", provider="cloud")
        assert node.provider == "other"


async def test_provider_priority(tmp_path: Path) -> None:
    """The smaller number goes first; while that pool is full the next one serves."""
    cheap = provider(pool("small", max_servers=1), name="cloud", priority=1)
    dear = provider(pool("small"), name="other", priority=2)
    async with launched(tmp_path, config(dear, cheap)) as site:
        first = await site.fulfilled("small")
        assert [node.provider for node in site.nodes_of(first)] == ["cloud"]
        assert [node.provider for node in await site.got("small")] == ["other"]
        await (await site.take(first)).give_all_back()
        await site.until(lambda: site.cloud.servers() == [] and not is_paused(site))
        assert [node.provider for node in await site.got("small")] == ["cloud"]


async def test_request_order(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small", max_servers=1)))) as site:
        last = await site.fulfilled("small")
        handles = {
            n: await site.ask("small", priority=priority, relative_priority=relative)
            for n, (priority, relative) in enumerate([("300", 0), ("200", 9), ("200", 3), ("100", 7), ("200", 3)])
        }
        served: list[int] = []
        while handles:
            await (await site.take(last)).give_all_back()
            number, last = await site.first_fulfilled(handles)
            served.append(number)
        assert served == [3, 2, 4, 1, 0]


async def test_request_order_missing_label(tmp_path: Path) -> None:
    """Requests that can be served are accepted before any request is declined, for all priorities."""
    changed: list[str] = []

    def note(event: TreeEvent) -> None:
        if isinstance(event, Changed):
            changed.append(event.entry.path)

    async with shared_store() as store, store.connect() as user, NodeClient(user, clock=LoopClock()) as client:
        hopeless = await client.submit(["small", "nowhere"], priority="100")
        servable = await client.submit(["small"], priority="300")
        async with user.tree(paths.REQUESTS) as requests:
            requests.subscribe(note)
            async with launched(tmp_path, config(provider(pool("small"))), store=store):
                assert (await hopeless.finished()).state is RequestState.FAILED
        assert changed[0] == paths.request(servable.id)


async def test_disabled_provider(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small", max_servers=0)))) as site:
        request = await site.failed("small")
        assert request.declined_by == (_pool_id(site, "cloud"),)


async def test_a_provider_that_takes_no_requests_has_nobody_yield_to_it(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small"), max_concurrency=0))) as site:
        await site.until(lambda: len(site.view.pools) == 1)
        (registration,) = site.view.pools.values()
        assert registration.record.paused
        waiting = await site.ask("small")
        await site.until(lambda: waiting.id in site.view.open_requests)
        (standing,) = site.launcher.scheduler.explainer.explain(waiting.id)
        assert standing.status == "deferred"
        assert [str(reason) for reason in standing.reasons] == ["the provider is paused: its max-concurrency is 0"]


class Exploding(FakeDriver):
    """Raises an unforeseen error."""

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        raise ZeroDivisionError(spec.name)


EXPLODING = DriverRegistry([DriverPlugin("exploding", FakeProvider, Exploding)])


async def test_failed_provider(tmp_path: Path) -> None:
    """Each fault in a pool loses that pool the request, and has no effect on other pools."""
    good = provider(pool("small"), name="cloud", priority=2)
    bad = provider(pool("small"), name="other", priority=1, driver="exploding")
    async with launched(tmp_path, config(good, bad), drivers=EXPLODING) as site:
        for _ in range(2):
            request = await site.fulfilled("small")
            assert request.declined_by == (_pool_id(site, "other"),)
            assert [node.provider for node in site.nodes_of(request)] == ["cloud"]
        await site.until(lambda: {node.provider for node in site.nodes()} == {"cloud"})


class Refusing(FakeDriver):
    """Can't be started as configured."""

    def __init__(self, config: FakeProvider, *more: Any) -> None:
        raise LaunchFailedError("no such account", provider=config.name)


REFUSING = DriverRegistry([DriverPlugin("refusing", FakeProvider, Refusing)])


async def test_broken_provider(tmp_path: Path) -> None:
    good, bad = provider(pool("small"), name="cloud"), provider(pool("big"), name="other", driver="refusing")
    top = config(good, bad)
    async with launched(tmp_path, top, drivers=REFUSING, until=lambda site: "cloud" in site.launcher.providers) as site:
        assert [node.provider for node in await site.got("small")] == ["cloud"]
        request = await site.failed("big")
        assert request.declined_by == (_pool_id(site, "cloud"),)
