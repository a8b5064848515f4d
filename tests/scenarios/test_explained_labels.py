"""`explain LABEL` says of each pool that offers it why it takes no requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.cli.explain import _about_label
from nodelaunch.errors import ProviderUnavailableError
from nodelaunch.operations.pauses import Pauser
from nodelaunch.protocol.pauses import Target
from nodelaunch.protocol.quota import Limits
from nodelaunch.status import collect
from support.launchers import LoopClock
from support.sites import Site, config, launched, pool, provider

pytestmark = pytest.mark.looptime

PAUSES = [
    (Target.provider("cloud"), False, "paused"),
    (Target.pool("cloud", "main"), True, "draining"),
    (Target.launcher("here"), False, "paused"),
    (Target.launcher("here"), True, "draining"),
]


def said(site: Site, label: str = "small") -> list[str]:
    about, lines = _about_label(site.view, label, [site.launcher.reporter.report()])
    assert lines[1] == f"  offered by: {', '.join(about['pools'])}"
    return [line.strip() for line in lines[1:] if line.startswith(("  offered by", "    "))]


async def test_pool_that_serves_is_only_named(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        assert said(site) == ["offered by: cloud/main"]


async def test_full_pool_is_said_to_be_full(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small", max_servers=1)))) as site:
        await site.take(await site.fulfilled("small"))
        await site.ask("small")
        await site.a_while(5)
        assert said(site) == ["offered by: cloud/main (full)", "cloud/main: requests wait there for capacity"]


@pytest.mark.parametrize(("target", "drains", "word"), PAUSES)
async def test_pool_that_an_operator_stopped_is_named_with_who_and_why(
    tmp_path: Path, target: Target, drains: bool, word: str
) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        await Pauser(site.client.store, LoopClock()).pause(target, by="ann", reason="disks", drains=drains)
        await site.a_while(5)
        head, why = said(site)
        assert head == f"offered by: cloud/main ({word})"
        assert why.startswith(f"cloud/main: {target} is {word} since ")
        assert why.endswith(" by ann: disks")
        (found,) = collect(site.view, [site.launcher.reporter.report()], site.now).pools
        assert found.state == word


async def test_pool_that_is_switched_off_says_so(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small"), max_concurrency=0))) as site:
        assert said(site) == ["offered by: cloud/main (off)", "cloud/main: max-concurrency of its provider is 0"]


async def test_pool_whose_provider_is_away_says_what_that_said(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        runtime = site.launcher.providers["cloud"]

        async def broken() -> Limits:
            raise ProviderUnavailableError("HTTP 503")

        runtime.driver.quota_limits = broken  # type: ignore[attr-defined]
        runtime.invalidate()
        await site.until(lambda: runtime.down is not None)
        head, why = said(site)
        assert head == "offered by: cloud/main (down)"
        assert "HTTP 503" in why


async def test_label_of_which_too_few_nodes_are_ready_says_why(tmp_path: Path) -> None:
    content = config(provider(pool("small", max_servers=1)), labels={"small": {"min-ready": 2}})
    async with launched(tmp_path, content) as site:
        await site.a_while(100)
        about, lines = _about_label(site.view, "small", [site.launcher.reporter.report()])
        assert about["min_ready"]["ready"] == 1
        assert lines[-2].startswith("  min-ready: 1 of 2 ready; requested again in ")
        assert lines[-1] == "    cloud/main: no free instances for min-ready nodes"
