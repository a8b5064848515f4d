"""Explanations of ``explain`` for requests that have ended, and for nodes and their owners."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from nodelaunch.cli.explain import _about_node, _lines, explanation
from nodelaunch.engine.reporting.explainrpc import Answers, why
from nodelaunch.engine.view import open_view
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest, Presence
from nodelaunch.protocol.states import NodeState
from nodelaunch.store.embedded.store import EmbeddedStore

REQUEST = RequestId("200-0000000001")
ASKED = {
    "labels": ["small"], "requestor": "zuul-1", "provider": None, "tenant": "acme", "job": "unit", "pipeline": "check",
    "build_set": "f00",
}  # fmt: skip
NODE = Node(
    id=NodeId(""), state=NodeState.IN_USE, allocated_to=REQUEST, type=("small",), requestor="zuul-1",
    tenant_name="acme", user_data={"zuul_system": "1", "project_name": "acme/engine"},
)  # fmt: skip


def a_pool(*events: str) -> dict[str, Any]:
    history = [{"at": 1.0, "what": event, "reasons": []} for event in events]
    return {
        "pool_id": "here", "provider": "cloud", "pool": "main", "status": events[-1] if events else "not known",
        "reasons": [], "nodes": [], "history": history, "asked": ASKED if events else None,
    }  # fmt: skip


async def said(*events: str, has_node: bool) -> tuple[list[str], list[str]]:
    """Return the explanations of the request and of its node, if there is one."""
    async with asyncio.timeout(10), EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        if has_node:
            await store.create(paths.NEW_NODE, NODE.to_bytes(), sequence=True)
        async with open_view(store) as view:
            await view.synced()
            found = explanation(REQUEST, view, Answers([a_pool(*events)]))
            node = view.node("0000000000")
            return _lines(found, []), _about_node(view, node, [])[1] if node is not None else []


async def test_node_says_who_has_it() -> None:
    of_request, of_node = await said("accepted", "fulfilled", "served: its requestor took the nodes", has_node=True)
    assert {"  requestor: zuul-1", "  tenant: acme", "  project: acme/engine"} <= set(of_node)
    assert of_node[-1] == f"  for request {REQUEST}:"
    assert of_request[1] == "  the request was fulfilled; its nodes: 0000000000 (in-use)"
    assert {"  pipeline: check", "  job: unit", "  build_set: f00", "  tenant: acme"} <= set(of_request)


@pytest.mark.parametrize(
    ("events", "has_node", "line"),
    [
        (("accepted", "fulfilled", "served"), False, "the request was fulfilled; its nodes have been returned"),
        (("deferred", "withdrawn while it waited"), False, "the request has ended: withdrawn while it waited"),
        ((), True, "the request was fulfilled; its nodes: 0000000000 (in-use)"),
        ((), False, "there is no such request, and no launcher remembers it: it never existed, or it ended long ago"),
    ],
)
async def test_request_that_has_gone_says_what_became_of_it(events: tuple[str, ...], has_node: bool, line: str) -> None:
    of_request, _ = await said(*events, has_node=has_node)
    assert of_request[1] == f"  {line}"


async def test_launchers_of_one_host_are_told_apart() -> None:
    first, second = ({**a_pool("deferred"), "launcher": process} for process in ("aaaaaaaa11", "bbbbbbbb22"))
    request = NodeRequest(id=RequestId(""), node_types=("small",))
    async with asyncio.timeout(10), EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        await store.create(paths.new_request("200"), request.to_bytes(), sequence=True)
        async with open_view(store) as view:
            await view.synced()
            found = explanation(RequestId("200-0000000000"), view, Answers([first, second]))
            found["launchers"] = {"aaaaaaaa11": "ci (aaaaaaaa)", "bbbbbbbb22": "ci (bbbbbbbb)"}
            lines = _lines(found, [])
    assert "cloud/main of ci (aaaaaaaa): deferred" in lines
    assert "cloud/main of ci (bbbbbbbb): deferred" in lines


async def test_reasons_of_launchers_of_one_host_are_told_apart() -> None:
    pool = {**a_pool("deferred"), "reasons": [{"text": "no room", "remedy": ""}]}
    processes = ("aaaaaaaa11", "bbbbbbbb22")
    async with asyncio.timeout(10), EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        for process in processes:
            presence = Presence(id=process, hostname="ci").to_bytes()
            await store.create(f"{paths.PRESENCES}/ci", presence, ephemeral=True, sequence=True)
        asking = asyncio.create_task(why(store, REQUEST))
        while not (questions := await store.children(paths.QUESTIONS)):
            await asyncio.sleep(0)
        for process in processes:
            answer = json.dumps({"pools": [pool]}).encode()
            await store.create(f"{paths.QUESTIONS}/{questions[0]}/{process}", answer)
        assert sorted(await asking) == [
            "cloud/main of ci (aaaaaaaa): deferred: no room",
            "cloud/main of ci (bbbbbbbb): deferred: no room",
        ]
