"""A waiting request is examined as soon as its wait ends, not only at the next event."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.client.nodes import RequestHandle
from nodelaunch.protocol.states import RequestState
from support.sites import Site, config, launched, pool, provider

pytestmark = pytest.mark.looptime
SOON_S = 10.0
"""Less than any period after which everything is looked at anyway."""


async def _with_one_that_never_boots(site: Site, count: int) -> RequestHandle:
    """A request for *count* nodes that is worked on until its launches time out: one server never becomes active."""
    site.cloud.fail("boot", kind="never")
    request = await site.ask(*["small"] * count)
    await site.until(lambda: len(site.creates()) == count)
    return request


async def test_launch_that_ends_makes_way_while_its_request_has_others_under_way(tmp_path: Path) -> None:
    top = config(provider(pool("small"), max_concurrency=2, launch_timeout=1000))
    async with launched(tmp_path, top) as site:
        first = await _with_one_that_never_boots(site, 2)
        second = await site.ask("small")
        await site.until(lambda: site.request(second).state is RequestState.FULFILLED, within_s=SOON_S)
        assert site.request(first).state is RequestState.PENDING


async def test_launch_that_succeeds_ends_the_pause_for_all_that_wait(tmp_path: Path) -> None:
    top = config(provider(pool("small"), boot_time=20.0, launch_timeout=1000))
    async with launched(tmp_path, top) as site:
        first = await _with_one_that_never_boots(site, 2)
        refusals = site.launcher.providers["cloud"].refusals
        site.cloud.fail("create", kind="quota", times=5)
        refused = await site.ask("small")
        await site.until(lambda: refusals.pause_s > SOON_S)
        waiting = await site.ask("small")
        await site.until(lambda: not refusals.is_active)
        assert site.request(first).state is RequestState.PENDING
        await site.until(lambda: len(site.creates()) == 4, within_s=2.0)
        for handle in (refused, waiting):
            assert (await handle.finished()).state is RequestState.FULFILLED
