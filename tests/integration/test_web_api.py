"""Requests and actions over HTTP: a real server, a real client, both stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from nodelaunch.protocol.states import NodeState
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.web import bodies, rentals
from nodelaunch.web.operations import OPERATIONS
from support.httpapi import TOKEN, Site, make_store, site

STORES = ["embedded", pytest.param("zookeeper", marks=pytest.mark.zookeeper)]


@pytest.fixture(params=STORES)
async def here(request: pytest.FixtureRequest, tmp_path: Path, zk_chroot: str) -> AsyncIterator[Site]:
    server = request.getfixturevalue("zookeeper_server") if request.param == "zookeeper" else None
    async with asyncio.timeout(120), site(tmp_path, make_store(request.param, server, zk_chroot)) as made:
        yield made


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Site]:
    """Yield a site on the embedded store, with capacity for one node."""
    async with asyncio.timeout(120), site(tmp_path, EmbeddedStore(None), max_servers=1) as made:
        yield made


def problem(reply: httpx.Response) -> tuple[int, str]:
    """Status and name of what a problem document says."""
    assert reply.headers["content-type"] == "application/problem+json", reply.text
    said = reply.json()
    assert said["status"] == reply.status_code
    assert said["title"]
    return reply.status_code, said["type"].removeprefix("urn:nodelaunch:problem:")


# -- both stores ----------------------------------------------------------------------------------------------------


async def test_life_of_a_request(here: Site) -> None:
    made = await here.make("small", "small", tenant="t", requestor="me", requestor_data={"why": "test"})
    assert (made["state"], made["nodes"], made["requestor"]) == ("requested", [], "me")
    got = await here.answered(made["id"])
    assert got["state"] == "fulfilled"
    assert got["version"] > made["version"]
    assert [node["label"] for node in got["nodes"]] == [["small"], ["small"]]
    node = got["nodes"][0]
    assert (node["state"], node["port"], node["username"], node["connection_type"]) == ("in-use", 22, "zuul", "ssh")
    assert node["host"]
    assert here.states() == [NodeState.IN_USE] * 2
    records = [seen.record for seen in here.launcher.view.nodes.values()]
    assert {(each.tenant_name, each.requestor) for each in records} == {("t", "me")}
    listed = (await here.http.get("/api/v1/requests")).json()["requests"]
    assert [each["id"] for each in listed] == [made["id"]]
    released = await here.http.delete(f"/api/v1/requests/{made['id']}")
    assert (released.status_code, released.json()["state"]) == (200, "released")
    await here.until_no_nodes()
    assert (await here.http.get("/api/v1/requests")).json() == {"requests": []}
    again = await here.http.delete(f"/api/v1/requests/{made['id']}")
    assert (again.status_code, again.json()["state"]) == (200, "released")


async def test_request_that_is_not_renewed_is_released(here: Site) -> None:
    got = await here.use("small", ttl_s=1)
    reply = await here.http.get(f"/api/v1/requests/{got['id']}", params={"version": got["version"], "wait_s": 30})
    assert reply.json()["state"] == "expired"
    await here.until_no_nodes()
    assert problem(await here.http.post(f"/api/v1/requests/{got['id']}/renew")) == (410, "ended")


async def test_request_that_is_renewed_lasts(here: Site) -> None:
    got = await here.use("small", ttl_s=1)
    reply = await here.http.post(f"/api/v1/requests/{got['id']}/renew", json={"ttl_s": 500})
    assert reply.status_code == 200
    assert 400 < reply.json()["expires_in_s"] <= 500
    at = asyncio.get_running_loop().time()
    params = {"version": got["version"], "wait_s": 1.5}
    reply = await here.http.get(f"/api/v1/requests/{got['id']}", params=params)
    assert asyncio.get_running_loop().time() - at >= 1.5
    assert reply.json()["state"] == "fulfilled"
    assert here.states() == [NodeState.IN_USE]


async def test_request_that_nobody_can_serve_fails_with_reasons(here: Site) -> None:
    got = await here.answered((await here.make("unoffered"))["id"])
    assert got["state"] == "failed"
    assert got["declined_by"]
    (pool,) = got["pools"]
    assert pool["reasons"], pool
    assert (pool["provider"], pool["pool"]) == ("cloud", "main")
    assert "unoffered" in pool["reasons"][0]["text"], pool
    assert pool["reasons"][0]["remedy"]
    await here.until(lambda: not here.launcher.view.requests)


async def test_hold_and_delete_of_a_node(here: Site) -> None:
    got = await here.use("small")
    node_id = got["nodes"][0]["id"]
    assert problem(await here.http.post(f"/api/v1/nodes/{node_id}/hold")) == (409, "node-busy")
    await here.launcher.store.ensure("/nodepool/nodes")
    await here.http.delete(f"/api/v1/requests/{got['id']}")
    await here.until_no_nodes()
    record = b'{"state": "ready", "state_time": 1, "provider": "nobodys", "pool": "main", "type": ["x"]}'
    entry = await here.launcher.store.create("/nodepool/nodes/", record, sequence=True)
    where = f"/api/v1/nodes/{entry.path.rpartition('/')[2]}"
    held = await here.http.post(f"{where}/hold", json={"reason": "to look at", "expires_s": 60})
    assert (held.status_code, held.json()["state"], held.json()["comment"]) == (200, "hold", "to look at")
    assert held.json()["hold_expiration"] == 60
    assert (await here.http.get(where)).json()["state"] == "hold"
    freed = await here.http.post(f"{where}/unhold", json={"reuse": True})
    assert (freed.status_code, freed.json()["state"]) == (200, "ready")
    assert problem(await here.http.post(f"{where}/unhold")) == (409, "not-possible")
    gone = await here.http.delete(where)
    assert (gone.status_code, gone.json()["state"]) == (202, "deleting")
    assert problem(await here.http.delete("/api/v1/nodes/0000009999")) == (404, "no-such-node")


async def test_end_of_the_launcher_gives_nodes_back(tmp_path: Path) -> None:
    store = EmbeddedStore(None)
    async with store.connect() as witness:
        async with asyncio.timeout(60), site(tmp_path, store) as here:
            got = await here.use("small")
        (entry,) = await witness.get_many([f"/nodepool/nodes/{got['nodes'][0]['id']}"])
    assert entry is None or b'"in-use"' not in entry.data


async def test_nodes_lost_with_the_session_are_told(small: Site) -> None:
    got = await small.use("small")
    store = small.launcher.store
    assert isinstance(store, EmbeddedStore)
    await store.expire_session()
    reply = await small.http.get(f"/api/v1/requests/{got['id']}", params={"version": got["version"], "wait_s": 30})
    assert reply.json()["state"] == "lost"
    assert "nodes lost" in reply.json()["detail"]


# -- who may --------------------------------------------------------------------------------------------------------


async def test_only_with_a_token(small: Site) -> None:
    async with httpx.AsyncClient(base_url=small.url) as stranger:
        for operation in OPERATIONS:
            path = "/api/v1" + operation.path.format(request_id="200-0000000000", node_id="0000000000")
            reply = await stranger.request(operation.method, path)
            assert problem(reply) == (401, "token-missing"), operation
            assert reply.headers["www-authenticate"].startswith("Bearer")
            wrong = {"Authorization": f"Bearer {TOKEN}x"}
            assert problem(await stranger.request(operation.method, path, headers=wrong)) == (401, "token-wrong")
        assert (await stranger.get("/node-list")).status_code == 200
        assert (await stranger.get("/api/v1/openapi.json")).status_code == 200


async def test_tokens_change_with_the_file(small: Site) -> None:
    small.token_file.write_text("another-token-of-some-length\nyet-another-token-to-use")
    assert problem(await small.http.get("/api/v1/requests")) == (401, "token-wrong")
    headers = {"Authorization": "bearer yet-another-token-to-use"}
    assert (await small.http.get("/api/v1/requests", headers=headers)).status_code == 200
    small.token_file.write_text("short\n")
    assert problem(await small.http.get("/api/v1/requests", headers=headers)) == (503, "tokens-unknown")
    small.token_file.unlink()
    assert problem(await small.http.get("/api/v1/requests", headers=headers)) == (503, "tokens-unknown")


async def test_without_a_token_file_nothing_can_be_done(tmp_path: Path) -> None:
    async with asyncio.timeout(60), site(tmp_path, EmbeddedStore(None), with_token=False) as here:
        reply = await here.http.post("/api/v1/requests", json={"labels": ["small"]})
        assert problem(reply) == (403, "not-enabled")
        assert "token-file" in reply.json()["detail"]


# -- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "labels"),
        ({"labels": []}, "labels"),
        ({"labels": [""]}, "labels"),
        ({"labels": ["small"] * 101}, "labels"),
        ({"labels": "small"}, "labels"),
        ({"labels": ["small"], "ttl_s": 0}, "ttl_s"),
        ({"labels": ["small"], "ttl_s": 1e9}, "ttl_s"),
        ({"labels": ["small"], "priority": "a/b"}, "priority"),
        ({"labels": ["small"], "relative_priority": -1}, "relative_priority"),
        ({"labels": ["small"], "lables": []}, "lables"),
    ],
)
async def test_what_is_not_allowed_is_named(small: Site, body: dict[str, Any], expected: str) -> None:
    reply = await small.http.post("/api/v1/requests", json=body)
    assert problem(reply) == (422, "not-allowed")
    assert expected in reply.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b'{"labels": ["small"]}', "text/plain", (415, "not-json")),
        (b"{", "application/json", (400, "no-json")),
        (b"\xff", "application/json", (400, "no-json")),
        (b"[" * 50_000, "application/json", (400, "no-json")),
        (b'{"requestor_data":' + b"[" * 40 + b"]" * 40 + b"}", "application/json", (400, "too-deep")),
        (b'{"labels": ["' + b"x" * bodies.MOST_BYTES + b'"]}', "application/json", (413, "too-large")),
    ],
)
async def test_bodies_that_are_none(small: Site, content: bytes, kind: str, expected: tuple[int, str]) -> None:
    reply = await small.http.post("/api/v1/requests", content=content, headers={"Content-Type": kind})
    assert problem(reply) == expected


async def test_body_that_never_comes(small: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.2)
    host, _, port = small.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /api/v1/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    writer.write(head.encode())
    said = await reader.read()  # to the end of the connection
    writer.close()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"too-slow" in said


async def test_there_are_only_so_many_requests_and_waits(small: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rentals, "MOST_OPEN", 1)
    monkeypatch.setattr(rentals, "MOST_WAITING", 0)
    made = await small.make("small")
    reply = await small.http.post("/api/v1/requests", json={"labels": ["small"]})
    assert problem(reply) == (429, "too-many")
    assert reply.headers["retry-after"]
    reply = await small.http.get(f"/api/v1/requests/{made['id']}", params={"wait_s": 1})
    assert problem(reply) == (429, "too-many")


def test_allowance() -> None:
    now = 0.0
    allowance = rentals.Allowance(2.0, 3.0, now=lambda: now)
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
    now = 0.5
    assert [allowance.take() for _ in range(2)] == [True, False]
    now = 100.0
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]


async def test_waits_are_bounded(small: Site) -> None:
    made = await small.make("small")
    for query in ("wait_s=61", "wait_s=x", "wait_s=nan", "wait_s=1&version=-1"):
        assert problem(await small.http.get(f"/api/v1/requests/{made['id']}?{query}")) == (422, "not-allowed")


async def test_ended_requests_are_forgotten_in_time(small: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rentals, "MOST_ENDED", 1)
    first, second = [await small.make("small") for _ in range(2)]
    for each in (first, second):
        assert (await small.http.delete(f"/api/v1/requests/{each['id']}")).status_code == 200
    assert problem(await small.http.get(f"/api/v1/requests/{first['id']}")) == (404, "no-such-request")
    assert (await small.http.get(f"/api/v1/requests/{second['id']}")).status_code == 200


# -- retries, and waiting -------------------------------------------------------------------------------------------


async def test_same_key_gives_the_same_request(small: Site) -> None:
    headers = {"Idempotency-Key": "one"}
    body = {"labels": ["small"]}
    replies = await asyncio.gather(*(small.http.post("/api/v1/requests", json=body, headers=headers) for _ in range(3)))
    assert len({reply.json()["id"] for reply in replies}) == 1
    other = await small.http.post("/api/v1/requests", json={"labels": ["unoffered"]}, headers=headers)
    assert problem(other) == (422, "key-reused")
    long = {"Idempotency-Key": "x" * 256}
    assert problem(await small.http.post("/api/v1/requests", json=body, headers=long)) == (400, "bad-key")


async def test_request_that_waits_says_why(small: Site) -> None:
    first = await small.use("small")
    second = await small.make("small")
    await small.until(lambda: small.launcher.scheduler.explainer.explain(second["id"])[0].reasons)
    got = (await small.http.get(f"/api/v1/requests/{second['id']}")).json()
    assert got["state"] == "requested"
    assert got["pools"][0]["status"] == "deferred"
    assert got["pools"][0]["reasons"]
    await small.http.delete(f"/api/v1/requests/{first['id']}")
    assert (await small.answered(second["id"]))["state"] == "fulfilled"


async def test_request_that_somebody_else_deletes_is_lost(small: Site) -> None:
    await small.use("small")
    second = await small.make("small")
    await small.launcher.store.delete(f"/nodepool/requests/{second['id']}")
    got = await small.answered(second["id"])
    assert got["state"] == "lost"
    assert "deleted" in got["detail"]


async def test_what_is_not_there(small: Site) -> None:
    assert problem(await small.http.get("/api/v1/requests/200-0000000077")) == (404, "no-such-request")
    assert problem(await small.http.get("/api/v1/nothing")) == (404, "not-found")
    assert problem(await small.http.put("/api/v1/requests")) == (405, "method-not-allowed")


# -- the description ------------------------------------------------------------------------------------------------


async def test_description_is_of_what_is_answered(small: Site) -> None:
    document = (await small.http.get("/api/v1/openapi.json")).json()
    described = {
        (method.upper(), path): each for path, methods in document["paths"].items() for method, each in methods.items()
    }
    assert set(described) == {(operation.method, operation.path) for operation in OPERATIONS}
    assert len({each["operationId"] for each in described.values()}) == len(OPERATIONS)

    def check(reply: httpx.Response, path: str) -> Any:
        said = described[(reply.request.method, path)]["responses"][str(reply.status_code)]
        schema = said["content"][reply.headers["content-type"]]["schema"]
        where = {"components": document["components"], **schema}
        jsonschema.Draft202012Validator(where).validate(reply.json())
        return reply.json()

    one, node = "/requests/{request_id}", "/nodes/{node_id}"
    body = {"labels": ["small"], "requestor_data": {"any": [1]}}
    made = check(await small.http.post("/api/v1/requests", json=body), "/requests")
    jsonschema.validate(body, {**document, "$ref": "#/components/schemas/NewRequest"})
    where = f"/api/v1/requests/{made['id']}"
    got = check(await small.http.get(where, params={"wait_s": 30}), one)
    check(await small.http.get("/api/v1/requests"), "/requests")
    check(await small.http.post(f"{where}/renew", json={}), f"{one}/renew")
    machine = f"/api/v1/nodes/{got['nodes'][0]['id']}"
    check(await small.http.get(machine), node)
    check(await small.http.post(f"{machine}/hold"), f"{node}/hold")
    check(await small.http.delete(machine), node)
    check(await small.http.delete(where), one)
    check(await small.http.post("/api/v1/requests", json={}), "/requests")


async def test_location_of_a_new_request(small: Site) -> None:
    reply = await small.http.post("/api/v1/requests", json={"labels": ["small"]})
    assert reply.headers["location"] == f"/api/v1/requests/{reply.json()['id']}"
    assert (await small.http.get(reply.headers["location"])).status_code == 200
