"""A common list of servers for all waits: quick while states change, slow at rest, and backing off after failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from nodelaunch.drivers.openstack.model import Server
from nodelaunch.drivers.openstack.watch import PATIENCE_S, QUICK_S, SLOW_S, ServerListing, ServerWatch
from nodelaunch.errors import LaunchFailedError, ProviderUnavailableError

pytestmark = pytest.mark.looptime


class Cloud:
    """Servers by id with their status, and what it was asked for."""

    def __init__(self) -> None:
        self.servers: dict[str, str] = {}
        self.takes_s = 0.1
        self.error: Exception | None = None
        self.asked_at: list[float] = []
        self.unlisted: dict[str, str] = {}
        """Servers that the list lags behind with."""
        self.looked_for: list[str] = []
        self.look_fails = 0

    async def look(self, name: str) -> Server | None:
        self.looked_for.append(name)
        if self.look_fails:
            self.look_fails -= 1
            raise ProviderUnavailableError("HTTP 503")
        status = {**self.servers, **self.unlisted}.get(name)
        return None if status is None else Server(id=name, status=status)

    async def list(self) -> list[Server]:
        self.asked_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return [Server(id=name, status=status) for name, status in self.servers.items()]

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.asked_at, self.asked_at[1:], strict=False)]


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
async def watch(cloud: Cloud) -> AsyncIterator[ServerWatch]:
    made = ServerWatch("lab", cloud.list, cloud.look)
    yield made
    await made.aclose()


def active(name: str):
    def judge(listing: ServerListing) -> Server | None:
        server = listing.get(name)
        return server if server is not None and server.status == "ACTIVE" else None

    return judge


async def test_nothing_is_asked_while_nobody_waits(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.servers["a"] = "ACTIVE"
    await watch.until(active("a"))
    await asyncio.sleep(1000)
    assert len(cloud.asked_at) <= 2


async def test_one_list_serves_all_who_wait(cloud: Cloud, watch: ServerWatch) -> None:
    names = [str(number) for number in range(50)]
    waiting = [asyncio.ensure_future(watch.until(active(name))) for name in names]
    await asyncio.sleep(5)
    cloud.servers = dict.fromkeys(names, "ACTIVE")
    await asyncio.gather(*waiting)
    assert len(cloud.asked_at) < 10


async def test_pause_grows_while_nothing_changes_and_shrinks_when_something_does(
    cloud: Cloud, watch: ServerWatch
) -> None:
    cloud.servers["a"] = "BUILD"
    waiting = asyncio.ensure_future(watch.until(active("a")))
    await asyncio.sleep(120)
    assert cloud.pauses[0] < 2 * QUICK_S
    assert cloud.pauses[-1] == pytest.approx(SLOW_S + cloud.takes_s)
    cloud.servers["b"] = "BUILD"
    await asyncio.sleep(2 * SLOW_S)
    assert min(cloud.pauses[-6:]) == pytest.approx(QUICK_S + cloud.takes_s)
    cloud.servers["a"] = "ACTIVE"
    await waiting


async def test_cloud_that_is_slow_to_list_is_left_alone_half_of_the_time(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.takes_s = 20.0
    cloud.servers["a"] = "BUILD"
    waiting = asyncio.ensure_future(watch.until(active("a")))
    await asyncio.sleep(300)
    assert min(cloud.pauses) >= 40.0
    cloud.servers["a"] = "ACTIVE"
    await waiting


async def test_who_waits_is_told_by_a_list_that_began_afterwards(cloud: Cloud, watch: ServerWatch) -> None:
    """A list under way may show how it was before."""
    cloud.takes_s = 10.0
    cloud.servers["a"] = "ACTIVE"
    earlier = asyncio.ensure_future(watch.fresh())
    await asyncio.sleep(5)
    began = asyncio.get_running_loop().time()
    listing = await watch.fresh()
    assert listing.began_at >= began
    await earlier


async def test_who_begins_to_wait_while_a_list_is_read_is_told_by_the_next(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.takes_s = 10.0
    cloud.servers["a"] = "ACTIVE"
    other = asyncio.ensure_future(watch.until(active("b")))
    await asyncio.sleep(5)
    began = asyncio.get_running_loop().time()
    told = await watch.until(lambda listing: listing)
    assert told.began_at >= began
    other.cancel()


async def test_lists_that_others_have_made_serve_those_who_wait(cloud: Cloud, watch: ServerWatch) -> None:
    """However often that is: each puts off the next, and so must be as good as it."""
    cloud.servers["a"] = "BUILD"
    waiting = asyncio.ensure_future(watch.until(active("a")))
    await asyncio.sleep(60)
    for _ in range(20):
        await watch.fresh()
        await asyncio.sleep(0.5)
    cloud.servers["a"] = "ACTIVE"
    for _ in range(4):
        await watch.fresh()
        await asyncio.sleep(0.5)
    assert waiting.done()


async def test_passing_failures_of_the_list_are_waited_out(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.error = ProviderUnavailableError("away")
    waiting = asyncio.ensure_future(watch.until(active("a")))
    await asyncio.sleep(PATIENCE_S / 2)
    cloud.error = None
    cloud.servers["a"] = "ACTIVE"
    assert (await waiting).id == "a"


async def test_who_waits_is_told_of_a_cloud_that_stays_away(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.error = ProviderUnavailableError("away")
    with pytest.raises(ProviderUnavailableError, match="away"):
        await watch.until(active("a"))
    assert asyncio.get_running_loop().time() >= PATIENCE_S


async def test_list_is_not_asked_for_sooner_than_the_cloud_says(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.error = ProviderUnavailableError("busy", retry_after_s=30.0)
    waiting = asyncio.ensure_future(watch.until(active("a")))
    await asyncio.sleep(40)
    assert min(cloud.pauses) >= 30.0
    cloud.error = None
    cloud.servers["a"] = "ACTIVE"
    await waiting


async def test_other_errors_are_told_of_at_once(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.error = LaunchFailedError("forbidden")
    with pytest.raises(LaunchFailedError, match="forbidden"):
        await watch.until(active("a"))
    assert len(cloud.asked_at) == 1


async def test_server_that_is_listed_as_deleted_is_gone(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.servers = {"a": "DELETED", "b": "SOFT_DELETED", "c": "ACTIVE"}
    listing = await watch.fresh()
    assert [server.id for server in listing] == ["c"]
    assert listing.get("a") is None


async def test_server_that_was_never_listed_is_asked_for_by_itself(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.unlisted["a"] = "ACTIVE"
    assert (await watch.until(active("a"), about="a")).id == "a"
    assert cloud.looked_for == ["a"]


async def test_server_that_was_listed_is_not_asked_for(cloud: Cloud, watch: ServerWatch) -> None:
    cloud.servers["a"] = "BUILD"
    waiting = asyncio.ensure_future(
        watch.until(lambda listing: listing if "a" not in listing.servers else None, about="a")
    )
    await asyncio.sleep(5)
    del cloud.servers["a"]
    await waiting
    assert cloud.looked_for == []
    await watch.until(lambda listing: listing, about="a")  # the last listing does not have it
    assert cloud.looked_for == ["a"]


async def test_failing_look_at_a_single_server_is_repeated_and_told_of_in_the_end(
    cloud: Cloud, watch: ServerWatch
) -> None:
    cloud.unlisted["a"] = "ACTIVE"
    cloud.look_fails = 3
    assert (await watch.until(active("a"), about="a")).id == "a"
    assert len(cloud.looked_for) == 4
    cloud.look_fails = 1000
    begun = asyncio.get_running_loop().time()
    with pytest.raises(ProviderUnavailableError):
        await watch.until(active("a"), about="a")
    assert PATIENCE_S <= asyncio.get_running_loop().time() - begun < PATIENCE_S + 2 * SLOW_S
