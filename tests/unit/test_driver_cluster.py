"""The capability ``cluster``: what a driver elsewhere asks of its launcher's cluster is what one here would."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nodelaunch.driverhost.process import clusterserver
from nodelaunch.driverhost.process.clusterserver import ClusterServer
from nodelaunch.driverhost.wire.messages import MAX_LINE
from nodelaunch.driverhost.wire.peer import Peer
from nodelaunch.errors import (
    RequestFailedError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from nodelaunch.protocol.cluster import Cluster
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.sdk.cluster import RemoteCluster
from support.clusters import NOW, OneNode, OneNodeCluster, a_claim, a_request, record
from support.transcripts import recorded

DEADLINE_S = 30.0


@asynccontextmanager
async def connected(cluster: Cluster | None, *, is_open: bool = True) -> AsyncIterator[tuple[RemoteCluster, Peer]]:
    """*cluster* from the other end of a connection; the launcher's end of which comes with it."""
    ours, theirs = socket.socketpair()
    server, remote = ClusterServer("meta", cluster), RemoteCluster()
    launcher = Peer(*await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE), answer=server.answer)
    if is_open:
        server.open(launcher.note)
    reader, writer = await asyncio.open_unix_connection(sock=theirs, limit=MAX_LINE)
    remote.peer = driver = Peer(reader, writer, notice=remote.on_note)
    running = [asyncio.ensure_future(peer.run()) for peer in (launcher, driver)]
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield remote, launcher
    finally:
        launcher.end("the test is over")
        await asyncio.gather(*running, return_exceptions=True)


async def until(holds: object) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def test_launcher_answers_as_recorded() -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await record() == recorded("cluster")


async def test_state_is_the_same_at_both_ends() -> None:
    node = OneNode(claims=3)
    async with connected(OneNodeCluster(node)) as (cluster, _), cluster.leases("meta") as leases:
        await leases.warm()
        assert leases.backings() == node.backings()
        assert leases.claims() == node.claims()
        assert abs(leases.now() - NOW) < DEADLINE_S


async def test_long_state_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusterserver, "PAGE_BYTES", 100)
    node = OneNode(claims=50)
    async with connected(OneNodeCluster(node)) as (cluster, _), cluster.leases("meta") as leases:
        await leases.warm()
        assert leases.claims() == node.claims()


async def test_change_is_told_once_until_it_is_read() -> None:
    node, told = OneNode(), list[int]()
    async with connected(OneNodeCluster(node)) as (cluster, _), cluster.leases("meta") as leases:
        leases.subscribe(lambda: told.append(1))
        await leases.warm()
        for _ in range(3):
            node.all_claims.append(a_claim(f"{100 + len(node.all_claims)}"))
            node.listeners[0]()
        await until(lambda: told)
        await leases.warm()
        assert len(told) == 1
        assert leases.claims() == node.claims()


async def test_changes_reach_the_leases_as_they_were_meant() -> None:
    node = OneNode()
    async with connected(OneNodeCluster(node)) as (cluster, _), cluster.leases("meta") as leases:
        await leases.warm()
        (backing,) = leases.backings()
        claim = a_claim()
        await leases.enter(claim)
        placed = await leases.place(claim, backing, 1)
        assert placed is not None
        assert (placed.backing, placed.slot) == (backing.id, 1)
        assert await leases.place(claim, backing, 0) is None
        await leases.free(claim.node_id)
        await leases.fail(backing)
        assert not await leases.release(backing)
        assert await leases.forget(backing)
        await leases.adopt()
        assert await leases.find(claim.node_id) == claim
        assert await leases.find(NodeId("0000000001")) is None
    same = node.backing
    assert node.log == [
        ("enter", claim), ("place", claim, same, 1), ("place", claim, same, 0), ("free", claim.node_id),
        ("fail", same), ("release", same), ("forget", same), ("adopt",),
    ]  # fmt: skip


async def test_node_is_obtained_and_its_request_told_of() -> None:
    told: list[NodeRequest] = []
    async with connected(OneNodeCluster()) as (cluster, _), cluster.leases("meta") as leases:
        assert await leases.obtain("backing", label="slot", slots=2, progress=told.append) == NodeId("0000000010")
        with pytest.raises(RequestFailedError) as caught:
            await leases.obtain("declined", label="slot", slots=2, progress=told.append)
    assert caught.value.declined_by == ("here-main",)
    assert told == [a_request(), a_request()]


@pytest.mark.parametrize("error", [VersionConflictError("/a", "detail"), StoreUnavailableError("/a"), StoreError("/b")])
async def test_errors_of_the_store_are_the_same_at_both_ends(error: StoreError) -> None:
    node = OneNode()
    async with connected(OneNodeCluster(node)) as (cluster, _), cluster.leases("meta") as leases:
        node.fails = error
        with pytest.raises(StoreError) as caught:
            await leases.adopt()
    assert (type(caught.value), caught.value.path, str(caught.value)) == (type(error), error.path, str(error))


async def test_bug_at_the_launcher_is_an_error_of_the_store() -> None:
    node = OneNode()
    async with connected(OneNodeCluster(node)) as (cluster, _), cluster.leases("meta") as leases:
        node.fails = KeyError("x")
        with pytest.raises(StoreError, match="KeyError"):
            await leases.adopt()


async def test_order_that_nobody_waits_for_is_withdrawn() -> None:
    node = OneNode()
    async with connected(OneNodeCluster(node)) as (cluster, _), cluster.leases("meta") as leases:
        ordering = asyncio.ensure_future(leases.obtain("endless", label="slot", slots=2, progress=lambda _: None))
        await until(lambda: node.log)
        ordering.cancel()
        await asyncio.gather(ordering, return_exceptions=True)
        assert node.log == [("obtaining", "slot", 2), ("withdrawn",)]
    assert not node.is_open


async def test_orders_and_leases_end_with_the_connection() -> None:
    node = OneNode()
    async with connected(OneNodeCluster(node)) as (cluster, launcher):
        async with cluster.leases("meta") as leases:
            ordering = asyncio.ensure_future(leases.obtain("endless", label="slot", slots=2, progress=lambda _: None))
            await until(lambda: node.log)
            assert cluster.peer is not None
            cluster.peer.end("killed")
            for call in (ordering, leases.warm()):
                with pytest.raises(StoreUnavailableError, match="the launcher is gone: killed"):
                    await call
        await until(lambda: not node.is_open)
        await until(lambda: launcher.ended is not None)
    assert node.log[-1] == ("withdrawn",)


async def test_leases_that_can_not_be_opened_say_why() -> None:
    node = OneNode()
    node.fails = StoreUnavailableError(detail="no quorum")
    async with connected(OneNodeCluster(node)) as (cluster, _):
        with pytest.raises(StoreUnavailableError, match="no quorum"):
            async with cluster.leases("meta"):
                pass


@pytest.mark.parametrize(("cluster", "is_open"), [(None, True), (OneNodeCluster(), False)])
async def test_driver_without_the_capability_or_a_cluster_is_refused(
    cluster: OneNodeCluster | None, is_open: bool
) -> None:
    async with connected(cluster, is_open=is_open) as (remote, _):
        with pytest.raises(StoreUnavailableError, match="no cluster for this driver"):
            async with remote.leases("meta"):
                pass
