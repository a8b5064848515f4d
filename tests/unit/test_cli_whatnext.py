"""Future of a node as `explain` describes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nodelaunch.cli.whatnext import what_next
from nodelaunch.engine.reporting.report import LauncherReport
from nodelaunch.engine.view import open_view
from nodelaunch.protocol import paths
from nodelaunch.protocol.pauses import Target
from nodelaunch.protocol.records import KnownPool, Node, PoolRegistration, Presence
from nodelaunch.protocol.states import NodeState
from nodelaunch.store.embedded.store import EmbeddedStore
from support.builders import a_node, a_pause

POOL = PoolRegistration(hostname="here", id="p", name="main", provider_name="cloud", supported_labels=("small",))
PRESENCE = Presence(id="process", hostname="here", pools=("p",))
IDLE = a_node(provider="cloud", pool="main", type=("small",))
OURS = [LauncherReport(id="process", providers=("cloud",))]


@asynccontextmanager
async def said(
    node: Node, *more: tuple[str, Any], registered: PoolRegistration | None = POOL, reports: Any = OURS
) -> AsyncIterator[str]:
    """Return the description of *node*'s future, with *more* records: path and record."""
    async with EmbeddedStore(None) as store, store.connect() as launcher, open_view(store) as view:
        await store.ensure(*paths.ALWAYS_THERE)
        await launcher.create(f"{paths.PRESENCES}/here", PRESENCE.to_bytes(), ephemeral=True, parents=True)
        if registered is not None:
            await launcher.create(f"{paths.POOLS}/here", registered.to_bytes(), ephemeral=True, parents=True)
        for path, record in ((paths.node(node.id), node), *more):
            await store.create(path, record.to_bytes(), parents=True)
        await view.synced()
        yield "\n".join(what_next(view, view.nodes[node.id].record, reports))


def pause(target: Target, **fields: Any) -> tuple[str, Any]:
    made = a_pause(**fields).changed(target=target)
    return paths.pause(target.kind.value, target.name), made


async def test_idle_node_is_given_out() -> None:
    async with said(IDLE) as text:
        assert text == "the node is idle: the next request for its label gets it"


@pytest.mark.parametrize(
    "target",
    [Target.provider("cloud"), Target.pool("cloud", "main"), Target.launcher("here"), Target.launcher("process")],
)
async def test_idle_node_of_what_is_paused_is_kept_and_given_to_nobody(target: Target) -> None:
    async with said(IDLE, pause(target, reason="new network")) as text:
        assert text.startswith(f"no request gets the node while the pool is paused: {target} is paused since ")
        assert text.endswith(": new network")


async def test_idle_node_of_what_is_drained_is_deleted() -> None:
    async with said(IDLE, pause(Target.provider("cloud"), drains=True)) as text:
        assert text.startswith("the node is deleted because the pool is drained: provider cloud is draining since ")


async def test_node_in_use_of_a_paused_pool_is_deleted_as_usual() -> None:
    node = a_node(state=NodeState.IN_USE, provider="cloud", pool="main", allocated_to="200-0000000001")
    async with said(node, pause(Target.pool("cloud", "main"))) as text:
        assert text.startswith("its pool takes no new requests: pool cloud/main is paused since ")


async def test_idle_node_of_a_pool_that_was_taken_out_is_deleted_by_who_had_it() -> None:
    async with said(IDLE, registered=None) as text:
        assert text == "no request gets the node: no launcher serves the pool any more; the node is deleted by here"


async def test_node_in_use_of_a_pool_that_was_taken_out_is_deleted_when_it_is_freed() -> None:
    node = a_node(state=NodeState.IN_USE, provider="cloud", pool="main", allocated_to="200-0000000001")
    async with said(node, registered=None) as text:
        assert text == "no launcher serves the pool now; here deletes the node when its lock is released"


async def test_node_whose_pool_does_not_offer_its_label_is_deleted() -> None:
    async with said(IDLE, registered=POOL.changed(supported_labels=("big",))) as text:
        assert text == "the node is deleted because the pool no longer offers its label"


async def test_node_of_a_pool_that_is_away_waits_for_it() -> None:
    known = KnownPool(provider="cloud", pool="main", labels=("small",))
    async with said(IDLE, (paths.known_pool("cloud", "main"), known), registered=None) as text:
        assert text.startswith("no request gets the node: the pool is not registered; after two minutes")


async def test_node_that_nobody_deletes_says_how_it_is_got_rid_of() -> None:
    async with said(IDLE, registered=None, reports=[]) as text:
        assert text == (
            "no launcher has provider cloud: no request gets the node; "
            "the first launcher with the provider deletes it\n"
            "if the provider no longer exists, delete its instances in the cloud, then: nodelaunch erase cloud"
        )


async def test_node_on_hold_that_nobody_deletes_says_so() -> None:
    node = a_node(state=NodeState.HOLD, provider="cloud", pool="main", type=("small",))
    async with said(node, registered=None, reports=[]) as text:
        assert text.startswith(
            "the node is held: no request gets it, and no launcher deletes it before the hold ends\nno launcher has"
        )
