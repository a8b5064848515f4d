"""The state of the cluster: what launchers report of themselves, put together with what records say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from nodelaunch.cli.status import in_words
from nodelaunch.engine.reporting.explainrpc import REPORT, ask_reports
from nodelaunch.engine.reporting.report import LauncherReport
from nodelaunch.operations.pauses import Pauser
from nodelaunch.protocol import paths
from nodelaunch.protocol.pauses import Target
from nodelaunch.protocol.records import PoolRegistration
from nodelaunch.protocol.states import ComponentState
from nodelaunch.status import Status, ask_status, collect
from support.launchers import EPOCH, LoopClock
from support.sites import Site, config, launched, pool, provider, shared_store

pytestmark = pytest.mark.looptime


async def status_of(site: Site) -> Status:
    return await ask_status(site.client.store, site.view, site.now)


async def test_status_tells_of_launchers_pools_requests_and_pauses(tmp_path: Path) -> None:
    content = config(provider(pool("small", max_servers=2)), provider(pool("big"), name="other"))
    async with launched(tmp_path, content) as site:
        await site.take(await site.fulfilled("small", "small"))
        waiting = await site.ask("small")
        await Pauser(site.client.store, LoopClock()).pause(Target.provider("other"), by="ann", reason="disks")
        await site.a_while(5)
        site.launcher.reporter.config_path = "/etc/n.yaml"
        found = await status_of(site)
        (launcher,) = found.launchers
        assert (launcher.hostname, launcher.state, launcher.answers) == ("here", "running", True)
        assert launcher.pools == ("cloud/main", "other/main")
        assert launcher.since is not None
        assert EPOCH <= launcher.since < site.now - 5
        assert launcher.config is not None
        assert (launcher.config.path, launcher.config.loaded_at) == ("/etc/n.yaml", launcher.since)
        cloud, other = found.pools
        assert (cloud.provider, cloud.state, cloud.labels, cloud.launchers) == ("cloud", "full", ("small",), ("here",))
        assert (cloud.limits["instances"], cloud.used["instances"], cloud.free["instances"]) == (2, 2, 0)
        assert (cloud.nodes, cloud.pauses) == ({"in-use": 2}, ())
        assert (other.state, [pause.reason for pause in other.pauses]) == ("paused", ["disks"])
        assert [pause.name for pause in found.pauses] == ["other"]
        assert found.requests == {"requested": 1}
        (request,) = found.waiting
        assert (request.id, request.labels) == (waiting.id, ("small",))
        assert request.why[0].startswith("cloud/main: needs 1 instance; 0 available")
        assert json.loads(json.dumps(found.to_json()))["pools"][0]["nodes"] == {"in-use": 2}
        text = "\n".join(in_words(found))
        assert "provider other is paused since" in text
        assert f"{waiting.id}  00:00:00:0" in text
        assert "/etc/n.yaml" in text


async def test_status_tells_of_breakers_and_last_troubles(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small"), launch_retries=1))) as site:
        site.cloud.fail("create", kind="error", times=3)
        for _ in range(3):
            await site.failed("small")
        found = await status_of(site)
        assert [breaker.what for breaker in found.pools[0].breakers] == ["label small"]
        assert len(found.troubles) >= 3
        assert found.troubles[0].at >= found.troubles[-1].at
        assert found.troubles[0].request.startswith("200-")
        text = "\n".join(in_words(found))
        assert "label small: 3 failed in a row" in text
        assert "last failures:" in text


async def test_equal_configurations_have_one_digest_and_a_reload_another(tmp_path: Path) -> None:
    content = config(provider(pool("small")))
    async with (
        shared_store() as store,
        launched(tmp_path, content, store=store) as here,
        launched(tmp_path, content, store=store, hostname="there") as there,
    ):
        found = await status_of(here)
        assert [launcher.hostname for launcher in found.launchers] == ["here", "there"]
        assert len({launcher.config and launcher.config.digest for launcher in found.launchers}) == 1
        assert found.pools[0].launchers == ("here", "there")
        await there.reload(config(provider(pool("small", max_servers=3))))
        found = await status_of(here)
        assert len({launcher.config and launcher.config.digest for launcher in found.launchers}) == 2
        own = collect(here.view, [here.launcher.reporter.report()], here.now)
        assert [launcher.answers for launcher in own.launchers] == [True, False]


async def test_launchers_of_other_programs_are_told_of_as_far_as_they_are_registered(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        record = PoolRegistration(
            hostname="np", id="np-1", name="p", provider_name="theirs", version="11.0.0", state=ComponentState.RUNNING,
            supported_labels=("rare",),
        )  # fmt: skip
        async with site.store.connect() as nodepool:
            await nodepool.create(f"{paths.POOLS}/np", record.to_bytes(), ephemeral=True, sequence=True)
            await site.until(lambda: len(site.view.pools) == 2)
            found = await status_of(site)
        theirs = found.launchers[-1]
        assert (theirs.id, theirs.hostname, theirs.pools, theirs.since) == ("", "np", ("theirs/p",), None)
        assert (found.pools[-1].provider, found.pools[-1].labels, found.pools[-1].limits) == ("theirs", ("rare",), {})
        assert "another program" in "\n".join(in_words(found))


async def test_launchers_of_one_host_are_told_apart(tmp_path: Path) -> None:
    content = config(provider(pool("small")))
    async with (
        shared_store() as store,
        launched(tmp_path, content, store=store) as site,
        launched(tmp_path, content, store=store) as other,
    ):
        found = await status_of(site)
        assert found.pools[0].launchers == tuple(sorted(f"here ({each.launcher.id[:8]})" for each in (site, other)))
        assert [launcher.pid for launcher in found.launchers] == [os.getpid()] * 2


async def test_launcher_that_does_not_answer_is_told_of_all_the_same(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        found = collect(site.view, [], site.now)
        assert [launcher.answers for launcher in found.launchers] == [False]
        assert "running, no answer" in "\n".join(in_words(found))
        assert await ask_reports(site.client.store, ["nobody"]) == [site.launcher.reporter.report()]


def test_reports_of_other_versions_are_read_as_far_as_they_are_known() -> None:
    assert LauncherReport.from_bytes(b'{"id": "x", "more": 1}') == LauncherReport(id="x")
    for data in (b"", b"[]", b'{"id": 1}', b'{"pools": []}'):
        assert LauncherReport.from_bytes(data) is None
    assert msgspec.json.decode(REPORT) == {"report": True}


async def test_status_tells_why_nodes_are_not_kept_ready_and_until_when(tmp_path: Path) -> None:
    content = config(provider(pool("small", max_servers=1)), labels={"small": {"min-ready": 2}})
    async with launched(tmp_path, content) as site:
        await site.a_while(100)
        found = await status_of(site)
        (short,) = found.min_ready
        assert (short.label, short.wanted, short.ready, short.asked) == ("small", 2, 1, 0)
        assert short.why == ("cloud/main: no free instances for min-ready nodes",)
        assert short.retry_at is not None
        assert short.lacks_room
        assert 0 <= short.retry_at - site.now <= 60
        text = "\n".join(in_words(found))
        assert "min-ready of small: 1 of 2 ready; requested again in " in text
        assert " s, or as soon as there is capacity\n" in text
        assert "    cloud/main: no free instances for min-ready nodes" in text
        assert found.to_json()["min_ready"][0]["label"] == "small"


async def test_status_tells_that_nodes_to_be_kept_ready_wait_for_a_pause_to_end(tmp_path: Path) -> None:
    content = config(provider(pool("small")), labels={"small": {"min-ready": 1}})
    async with launched(tmp_path, content) as site:
        await site.until_idle(1)
        await Pauser(site.client.store, LoopClock()).pause(Target.provider("cloud"), by="ann", drains=True)
        await site.a_while(100)
        (short,) = (await status_of(site)).min_ready
        assert (short.ready, short.retry_at) == (0, None)
        assert short.why[0].startswith("cloud/main: provider cloud is draining since")
