"""Several launchers on one store: sharing of nodes kept ready, of waits for returns, and of capacity."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.decisions.answers import TURN_S
from nodelaunch.engine.fleet.presence import RETURN_GRACE_S
from nodelaunch.engine.limits import waiting
from nodelaunch.engine.limits.sharing import ACKNOWLEDGED_S, SharedCapacity
from nodelaunch.engine.reporting.explainrpc import ask
from nodelaunch.engine.serve.scheduler import Scheduler
from nodelaunch.engine.view import NodeSeen, PresencesChanged
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import PoolRegistration, Presence
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.store import Create, Entry
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import CONFIG, LoopClock, Running, at_work, running, written

pytestmark = pytest.mark.looptime

LAB_ONLY = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: bare, min-ready: {min_ready}}}]
providers:
  - name: lab
    driver: test
    pools: [{{name: rack, max-servers: 5, labels: [bare]}}]
"""
BOTH = CONFIG.replace("labels: [{{name: small", "labels: [{{name: bare, min-ready: {min_ready}}}, {{name: small", 1)


def requested(site: Running) -> int:
    """Return how many nodes were ever requested to be kept ready, by sequence numbers."""
    return sum(1 for request_id in site.view.requests if request_id.startswith("900-"))


async def test_one_of_two_launchers_keeps_a_label_ready(tmp_path: Path) -> None:
    async with running(tmp_path, min_ready=3) as site:
        second = written(tmp_path, name="second.yaml", min_ready=3)
        async with at_work(second, site.store.connect(), hostname="there"):
            await site.until(lambda: len(site.nodes(NodeState.READY)) >= 3)
            await asyncio.sleep(120.0)
            assert len(site.nodes()) == 3
            await site.until(lambda: len(site.view.presences) == 2)


async def test_a_lock_that_another_launcher_may_contend_for_keeps_its_directory(tmp_path: Path) -> None:
    """A Nodepool that contends for it at this moment logs an error when it goes; later the request is gone too."""
    async with running(tmp_path, BOTH) as site:
        handle = await site.client.submit(["small"])
        await handle.finished()
        assert not site.view.request_lock_dirs
        lab = written(tmp_path, LAB_ONLY, name="lab.yaml", min_ready=0)
        async with at_work(lab, site.store.connect(), hostname="there"):
            await site.until(lambda: len(site.view.pools) == 2)
            handle = await site.client.submit(["small"])
            await handle.finished()
            assert list(site.view.request_lock_dirs) == [handle.id]
            await site.client.store.delete(paths.request(handle.id))
            await site.until(lambda: not site.view.request_lock_dirs)


async def test_who_keeps_nodes_ready_is_succeeded(tmp_path: Path) -> None:
    config = CONFIG.replace("name: small", "name: bare")
    async with running(tmp_path, config, min_ready=2) as site:
        second = written(tmp_path, config, name="second.yaml", min_ready=2)
        async with at_work(second, site.store.connect(), hostname="there") as other:
            await site.until(lambda: len(site.nodes(NodeState.READY)) == 2)
            keeper = site.launcher if site.launcher._parts.min_ready._is_ours("bare") else other
            stays = other if keeper is site.launcher else site.launcher
            await keeper.drain(0.0)
            await asyncio.sleep(0)
            assert stays._parts.min_ready._is_ours("bare")
            node = site.nodes(NodeState.READY)[0]
            lock = await site.client.store.lock(paths.node_lock(node.id))
            await site.client.store.delete_tree(paths.node(node.id))
            await lock.release()
            await site.until(lambda: len(site.nodes(NodeState.READY)) == 2)


async def test_request_waits_for_the_pool_that_is_being_restarted(tmp_path: Path) -> None:
    async with running(tmp_path, BOTH) as site:
        lab = written(tmp_path, LAB_ONLY, name="lab.yaml", min_ready=0)
        async with at_work(lab, site.store.connect(), hostname="there"):
            await site.until(lambda: len(site.view.pools) == 2)
            await site.until(lambda: ("lab", "rack") in site.view.known_pools)
        await site.until(lambda: len(site.view.pools) == 1)
        handle = await site.client.submit(["bare"])
        await asyncio.sleep(RETURN_GRACE_S / 2)
        assert site.view.requests[handle.id].record.state is RequestState.REQUESTED
        async with at_work(lab, site.store.connect(), hostname="there"):
            assert (await handle.finished()).state is RequestState.FULFILLED


async def test_pool_that_does_not_return_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, BOTH) as site:
        lab = written(tmp_path, LAB_ONLY, name="lab.yaml", min_ready=0)
        async with at_work(lab, site.store.connect(), hostname="there"):
            await site.until(lambda: ("lab", "rack") in site.view.known_pools)
        started = asyncio.get_running_loop().time()
        assert (await site.finished("bare")).state is RequestState.FAILED
        assert asyncio.get_running_loop().time() - started >= RETURN_GRACE_S - 1
        await site.until(lambda: ("lab", "rack") not in site.view.known_pools)
        assert (await site.finished("bare")).state is RequestState.FAILED


async def test_launcher_that_starts_first_waits_for_the_others(tmp_path: Path) -> None:
    """Known pools outlive all processes: the first one back does not fail what the second one serves."""
    store = EmbeddedStore(None, clock=LoopClock().now)
    cloud = written(tmp_path, BOTH)
    lab = written(tmp_path, LAB_ONLY, name="lab.yaml", min_ready=0)
    async with store.connect() as session, NodeClient(session, clock=LoopClock()) as client:
        async with at_work(cloud, store.connect()) as launcher, at_work(lab, store.connect(), hostname="there"):
            while len(launcher.view.known_pools) < 2:
                await asyncio.sleep(1)
        handle = await client.submit(["bare"])
        async with at_work(cloud, store.connect()):
            await asyncio.sleep(30)
            async with at_work(lab, store.connect(), hostname="there"):
                assert (await handle.finished()).state is RequestState.FULFILLED


async def test_what_one_pool_waits_for_is_not_taken_by_its_neighbour(tmp_path: Path) -> None:
    config = CONFIG.replace("    pools:", "    limits: {{max-servers: 3}}\n    pools:", 1)
    more = """
      - name: second
        labels: [{name: big, cloud-image: image, min-ram: 8192}]
"""
    config = config.replace("          - {{name: big, cloud-image: image, min-ram: 8192}}\n", "")
    async with running(tmp_path, config, more=more) as site:
        first, second = await site.finished("small"), await site.finished("big")
        waits = await site.client.submit(["small", "small", "small"])
        await site.until(lambda: any(seen.record.paused for seen in site.view.pools.values()))
        later = await site.client.submit(["big"])
        async with site.client.hold(first):
            pass
        await asyncio.sleep(60)
        assert site.view.requests[later.id].record.state is RequestState.REQUESTED
        async with site.client.hold(second):
            pass
        fulfilled = await waits.finished()
        assert fulfilled.state is RequestState.FULFILLED
        assert site.view.requests[later.id].record.state is RequestState.REQUESTED
        async with site.client.hold(fulfilled):
            pass
        assert (await later.finished()).state is RequestState.FULFILLED


async def test_pools_of_a_provider_leave_each_other_in_peace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each declines what the other waits to serve: neither has anything new to tell the other."""
    more = """
      - name: second
        max-servers: 2
        max-ram: 17000
        labels:
          - {name: small, cloud-image: image, min-ram: 32768}
          - {name: big, cloud-image: image, min-ram: 8192}
"""
    passes = 0
    really_pass = Scheduler._pass

    def counted(scheduler: Scheduler) -> None:
        nonlocal passes
        passes += 1
        assert passes < 1000, "round and round"
        really_pass(scheduler)

    async with running(tmp_path, more=more, max_servers=1) as site:
        await site.finished("small")
        await site.finished("big", "big")
        waiting = [await site.client.submit(["small"]), await site.client.submit(["big", "big"])]
        requests = site.view.requests
        await site.until(lambda: all(len(requests[handle.id].record.declined_by) == 1 for handle in waiting))
        monkeypatch.setattr(Scheduler, "_pass", counted)
        await asyncio.sleep(300)
        assert {requests[handle.id].record.state for handle in waiting} == {RequestState.REQUESTED}
        assert passes < 20


# -- being asked ----------------------------------------------------------------------------------------------------


async def test_each_launcher_says_how_a_request_stands_with_its_pools(tmp_path: Path) -> None:
    async with running(tmp_path, BOTH, max_servers=1) as site:
        lab = written(tmp_path, LAB_ONLY, name="lab.yaml", min_ready=0)
        async with at_work(lab, site.store.connect(), hostname="there"):
            await site.until(lambda: len(site.view.pools) == 2 and len(site.view.presences) == 2)
            await site.finished("small")
            handle = await site.client.submit(["small"])
            await site.until(lambda: any(seen.record.paused for seen in site.view.pools.values()))
            processes = [seen.record.id for seen in site.view.presences.values()]
            answers = await ask(site.client.store, handle.id, processes)
            assert answers.silent == []
            by_provider = {pool["provider"]: pool for pool in answers.pools}
            assert by_provider["cloud"]["status"] == "deferred"
            (reason,) = by_provider["cloud"]["reasons"]
            assert (reason["kind"], reason["facts"]["resource"]) == ("NoRoom", "instances")
            assert reason["remedy"]
            assert [reason["kind"] for reason in by_provider["lab"]["reasons"]] == ["LeftToOthers"]
            assert await site.client.store.children(paths.QUESTIONS) == []


async def test_ended_request_is_remembered_with_its_failures(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("boot", times=4)
        request = await site.finished("small")
        assert request.state is RequestState.FAILED
        (pool,) = (await ask(site.client.store, request.id, [_only_id(site)])).pools
        history = [event["what"] for event in pool["history"]]
        assert history[0] == "accepted"
        assert history[-1] == "declined"
        attempts = [what.partition(": ")[0] for what in history[1:-1]]
        assert attempts == [f"launch of node 1 failed, attempt {number}" for number in (1, 2)]
        assert [reason["kind"] for reason in pool["history"][-1]["reasons"]] == ["LaunchesFailed"]


async def test_trouble_that_passed_is_remembered_with_its_request(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("create", times=1, kind="unavailable")
        site.cloud.fail("delete", times=1)
        request = await site.finished("small")
        async with site.client.hold(request) as (node,):
            pass
        await site.until(lambda: not site.cloud.servers())
        (pool,) = (await ask(site.client.store, request.id, [_only_id(site)])).pools
        accepted, waited, fulfilled, *deletion = [event["what"] for event in pool["history"]]
        assert (accepted, fulfilled) == ("accepted", "fulfilled")
        assert waited.startswith(f"node {node.id} waits for the provider: ")
        assert any(what.startswith(f"deletion of node {node.id} failed: ") for what in deletion)


async def test_refusal_for_want_of_quota_is_remembered_with_its_request(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("create", times=1, kind="quota")
        request = await site.finished("small")
        (pool,) = (await ask(site.client.store, request.id, [_only_id(site)])).pools
        _, refused, fulfilled = [event["what"] for event in pool["history"]]
        assert refused.startswith("launch of node 1 postponed because the cloud has no capacity: ")
        assert fulfilled == "fulfilled"


async def test_request_being_worked_on_shows_its_nodes(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=100.0) as site:
        handle = await site.client.submit(["small", "big"])
        await site.until(lambda: len(site.cloud.servers()) == 2)
        (pool,) = (await ask(site.client.store, handle.id, [_only_id(site)])).pools
        assert (pool["status"], pool["nodes"]) == ("being worked on", ["small: launching", "big: launching"])


async def test_silent_process_is_named_and_strange_questions_are_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.client.store.create(f"{paths.QUESTIONS}/", b"what?", sequence=True)
        answers = await ask(site.client.store, RequestId("200-0000000099"), [_only_id(site), "nobody"])
        assert answers.silent == ["nobody"]
        assert [pool["status"] for pool in answers.pools] == ["not known"]
        await site.until(lambda: True)
        await asyncio.sleep(700)
        assert await site.client.store.children(paths.QUESTIONS) == []


def _only_id(site: Running) -> str:
    (presence,) = site.view.presences.values()
    assert presence.record.hostname == "here"
    return presence.record.id


# -- sharing a provider ---------------------------------------------------------------------------------------------


async def test_launchers_that_share_a_provider_keep_its_limits_together(tmp_path: Path) -> None:
    async with running(tmp_path, max_servers=5, boot_time=1.0) as site:
        second = written(tmp_path, name="second.yaml", max_servers=5, boot_time=1.0)
        async with at_work(second, site.store.connect(), hostname="there"):
            await site.until(lambda: len(site.view.launchers) == 2)
            most = 0

            def count(_note: NodeSeen) -> None:
                nonlocal most
                most = max(most, len(site.view.nodes))

            site.view.subscribe(count, NodeSeen)
            launchers: set[str | None] = set()
            for nodes in await asyncio.gather(*(site.job("small") for _ in range(40))):
                launchers |= {node.launcher for node in nodes}
            assert most == 5
            assert len(launchers) == 2


TENANT = "acme"
TWO_CLOUDS = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small, min-ready: {min_ready}}}]
tenant-resource-limits: [{{tenant-name: acme, max-servers: {limit}}}]
providers:
  - name: {cloud}
    driver: fake
    boot-time: 1.0
    delete-time: 0.5
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: 40
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""


@asynccontextmanager
async def two_clouds(folder: Path, *, limit: int, min_ready: int = 0) -> AsyncIterator[Running]:
    """Two launchers, one for each of two clouds, and a tenant that both serve."""
    second = written(folder, TWO_CLOUDS, name="second.yaml", limit=limit, cloud="other", min_ready=min_ready)
    async with (
        running(folder, TWO_CLOUDS, limit=limit, cloud="cloud", min_ready=min_ready) as site,
        at_work(second, site.store.connect(), hostname="there"),
    ):
        await site.until(lambda: len(site.view.launchers) == 2)
        yield site


class Peak:
    """The most nodes that a tenant had at once, and who launched them."""

    def __init__(self, site: Running) -> None:
        self.most = 0
        self.launchers: set[str | None] = set()
        self._site = site
        site.view.subscribe(self._count, NodeSeen)

    def _count(self, _note: NodeSeen) -> None:
        nodes = [node for node in self._site.nodes() if node.tenant_name == TENANT and not node.is_idle]
        self.most = max(self.most, len(nodes))
        self.launchers |= {node.launcher for node in nodes}


async def test_launchers_keep_to_the_limit_of_a_tenant_together(tmp_path: Path) -> None:
    async with two_clouds(tmp_path, limit=10) as site:
        peak = Peak(site)
        await asyncio.gather(*(site.job("small", tenant=TENANT) for _ in range(40)))
        assert peak.most == 10
        assert len(peak.launchers) == 2
        assert site.launcher.scheduler.queue.waiters == {}
        ledger = await site.client.store.get(paths.tenant_ledger(TENANT))
        assert ledger.stat.version >= 40


async def test_launchers_keep_to_the_limit_of_a_tenant_when_ready_nodes_are_claimed(tmp_path: Path) -> None:
    """A ready node counts for no tenant, until it is assigned to a request."""
    async with two_clouds(tmp_path, limit=3, min_ready=10) as site:
        await site.until(lambda: site.view.idle_by_label.get("small") == 10)
        peak = Peak(site)
        await asyncio.gather(*(site.job("small", tenant=TENANT) for _ in range(20)))
        assert peak.most == 3


async def test_node_sets_of_a_tenant_get_on_though_each_launcher_has_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sets of two have one node each, and the tenant may have no third one: the later set lets go of its node."""
    monkeypatch.setattr(waiting, "ROOM_WAIT_S", 1e6)
    create = SharedCapacity.create
    began: set[str] = set()
    busy: set[str] = set()
    created: set[str] = set()
    changed = asyncio.Condition()

    async def in_step(self: SharedCapacity, pool: str, tenant: str | None, op: Create) -> Entry:
        """Reserve in turns: a launcher that has one node waits until the other has one, too."""
        name = self._provider
        async with changed:
            began.add(name)
            changed.notify_all()
            await changed.wait_for(
                lambda: len(began) == 2 and name not in busy and (name not in created or len(created) == 2)
            )
            busy.add(name)
        try:
            entry = await create(self, pool, tenant, op)
            created.add(name)
        finally:
            async with changed:
                busy.discard(name)
                changed.notify_all()
        return entry

    monkeypatch.setattr(SharedCapacity, "create", in_step)
    async with two_clouds(tmp_path, limit=2) as site, asyncio.timeout(600):
        peak = Peak(site)
        jobs = [site.job("small", "small", tenant=TENANT, provider=name) for name in ("cloud", "other")]
        first, second = await asyncio.gather(*jobs)
        assert (peak.most, len(peak.launchers)) == (2, 2)
        assert {node.provider for node in (*first, *second)} == {"cloud", "other"}


async def test_many_node_sets_of_a_tenant_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ROOM_WAIT_S", 1e6)
    async with two_clouds(tmp_path, limit=9) as site, asyncio.timeout(600):
        peak = Peak(site)
        await asyncio.gather(*(site.job(*["small"] * count, tenant=TENANT) for count in (1, 2, 3, 4, 5) * 6))
        assert peak.most <= 9


async def test_tenant_without_a_limit_and_others_have_no_ledger(tmp_path: Path) -> None:
    async with two_clouds(tmp_path, limit=3) as site:
        await asyncio.gather(*(site.job("small", tenant="other") for _ in range(4)), site.job("small"))
        ledgers = [paths.tenant_ledger("other"), paths.tenant_ledger(TENANT)]
        assert await site.client.store.get_many(ledgers) == [None, None]


async def test_launchers_launch_no_more_at_once_than_the_provider_may(tmp_path: Path) -> None:
    async with running(tmp_path, max_concurrency=3, boot_time=2.0, max_servers=40) as site:
        second = written(tmp_path, name="second.yaml", max_concurrency=3, boot_time=2.0, max_servers=40)
        async with at_work(second, site.store.connect(), hostname="there"):
            await site.until(lambda: len(site.view.launchers) == 2)
            most = 0
            launchers: set[str | None] = set()

            def count(_note: NodeSeen) -> None:
                nonlocal most
                launching = site.nodes(NodeState.INIT, NodeState.BUILDING)
                most = max(most, len(launching))
                launchers.update(node.launcher for node in launching)

            site.view.subscribe(count, NodeSeen)
            await asyncio.gather(*(site.job("small") for _ in range(30)))
            assert most == 3
            assert len(launchers) == 2


async def test_node_set_larger_than_may_be_launched_at_once_is_served_beside_another_launcher(tmp_path: Path) -> None:
    async with running(tmp_path, max_concurrency=2, boot_time=2.0, max_servers=40) as site:
        second = written(tmp_path, name="second.yaml", max_concurrency=2, boot_time=2.0, max_servers=40)
        async with at_work(second, site.store.connect(), hostname="there"), asyncio.timeout(600):
            await site.until(lambda: len(site.view.launchers) == 2)
            await asyncio.gather(*(site.job(*["small"] * count) for count in (3, 1, 3, 2, 3, 1)))


async def test_a_launcher_that_is_frozen_keeps_nobody_from_launching(tmp_path: Path) -> None:
    """The frozen launcher is registered, and never says that it knows of another launcher."""
    async with running(tmp_path, boot_time=0.0) as site:
        frozen = site.store.connect()
        async with frozen:
            record = PoolRegistration(id="frozen", provider_name="cloud", name="main", supported_labels=("small",))
            await frozen.create(f"{paths.POOLS}/frozen", record.to_bytes(), ephemeral=True, sequence=True)
            presence = Presence(id="0" * 32, hostname="frozen")
            await frozen.create(f"{paths.PRESENCES}/frozen", presence.to_bytes(), ephemeral=True, sequence=True)
            await site.until(lambda: len(site.view.launchers) == 2)
            began = asyncio.get_running_loop().time()
            for _ in range(4):
                await site.finished("small")
            took = asyncio.get_running_loop().time() - began
            assert took < ACKNOWLEDGED_S + TURN_S + 1.0
            assert (await site.client.store.get(paths.ledger("cloud"))).stat.version == 4


async def test_launcher_that_others_can_not_know_of_takes_nothing_until_they_can(tmp_path: Path) -> None:
    """Without its presence, other launchers assume that it doesn't share limits, and create nodes that exceed them with
    its own.
    """
    async with running(tmp_path) as site:
        pool = site.launcher.pools["cloud", "main"]
        await site.until(lambda: pool.may_start)
        (path,) = site.view.presences
        mays: list[bool] = []
        stop = site.view.subscribe(
            lambda _note: mays.append(pool.may_start) if not site.view.presences else None, PresencesChanged
        )
        await site.client.store.delete(path)
        await site.until(lambda: path not in site.view.presences and pool.may_start)
        stop()
        assert mays == [False]
        assert len(site.view.presences) == 1
        await site.job("small")
