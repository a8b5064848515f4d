"""The HTTP application, asked as a browser or a script would, without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from nodelaunch.config.models import Config
from nodelaunch.config.standing import ConfigStanding
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.events import EventHub
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.protocol import paths
from nodelaunch.protocol.events import SessionChanged
from nodelaunch.protocol.pauses import Pause
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.web.app import make_app
from nodelaunch.web.lists import wants_json
from nodelaunch.web.streams import EventStreams
from support.builders import a_pause

NODE = (
    b'{"state": "ready", "state_time": 1, "provider": "cloud", "pool": "main", "type": ["small", "medium"], '
    b'"connection_port": {"token": "secret"}, "external_id": "vm-1"}'
)
BUILD = b'{"state": "ready", "formats": "raw,qcow2"}'
REQUEST = b'{"state": "requested", "node_types": ["small"], "requestor": "zuul", "relative_priority": 3}'


class Launcher:
    """The parts of a launcher that are shown."""

    def __init__(self, view: ClusterView | None) -> None:
        self._view = view
        self.events = EventHub()
        self.reasons: list[str] = []
        self.pauses: dict[PoolKey, tuple[Pause, ...]] = {}
        self.config_standing = ConfigStanding(Config())

    @property
    def view(self) -> ClusterView:
        if self._view is None:
            raise RuntimeError
        return self._view

    def readiness(self) -> list[str]:
        return self.reasons


@asynccontextmanager
async def client_of(launcher: Launcher) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(launcher))
    async with httpx.AsyncClient(transport=transport, base_url="http://launcher") as client:
        yield client


@asynccontextmanager
async def filled() -> AsyncIterator[httpx.AsyncClient]:
    async with EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        await store.create(paths.NEW_NODE, NODE, sequence=True)
        await store.create(paths.new_request("200"), REQUEST, sequence=True)
        await store.create(f"{paths.IMAGES}/debian/builds/0000000001", BUILD, parents=True)
        await store.create(f"{paths.IMAGES}/debian/pause")
        async with open_view(store) as view:
            await view.synced()
            async with client_of(Launcher(view)) as client:
                yield client


async def test_health_says_why_it_is_not_ready() -> None:
    launcher = Launcher(None)
    async with client_of(launcher) as client:
        for path in ("/health/live", "/health/ready", "/ready"):
            assert (await client.get(path)).status_code == 200
        launcher.reasons = ["draining", "store: suspended"]
        reply = await client.get("/ready")
        assert (reply.status_code, reply.text) == (503, "draining\nstore: suspended\n")
        assert (await client.get("/health/live")).status_code == 200


async def test_what_operators_paused_is_named_and_is_ready_all_the_same() -> None:
    launcher = Launcher(None)
    pause = a_pause(reason="disks")
    launcher.pauses = {("cloud", "main"): (pause,), ("cloud", "second"): (pause,)}
    async with client_of(launcher) as client:
        reply = await client.get("/health/ready")
        assert (reply.status_code, reply.text) == (200, f"OK\n{pause}\n")
        launcher.reasons = ["store: suspended"]
        reply = await client.get("/ready")
        assert (reply.status_code, reply.text) == (503, f"store: suspended\n{pause}\n")


async def test_lists_before_there_is_a_store() -> None:
    async with client_of(Launcher(None)) as client:
        assert (await client.get("/node-list")).status_code == 503


async def test_no_list_is_made_of_half_a_view() -> None:
    """A list made, and cached, before the locks are known calls locked nodes unlocked."""
    async with EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        await store.create(paths.NEW_NODE, NODE, sequence=True)
        await store.create(f"{paths.node_lock('0000000000')}/x__lock__", sequence=True, parents=True)
        async with open_view(store) as view:
            await view.synced()
            view.is_synced = False
            async with client_of(Launcher(view)) as client:
                reply = await client.get("/node-list")
                assert (reply.status_code, reply.text) == (503, "view of the cluster not in sync yet\n")
                view.is_synced = True
                headers = {"Accept": "application/json"}
                (node,) = (await client.get("/node-list", headers=headers)).json()
                assert node["locked"] == "locked"
                view.is_synced = False
                assert (await client.get("/node-list?fields=id")).status_code == 200  # what was known last


async def test_node_list_as_json_keeps_credentials_to_itself() -> None:
    async with filled() as client:
        (node,) = (await client.get("/node-list", headers={"Accept": "application/json"})).json()
    assert node["id"] == "0000000000"
    assert node["label"] == ["small", "medium"]
    assert node["connection_port"] == "redacted"
    assert node["locked"] == "unlocked"


async def test_node_list_as_a_table_of_some_columns() -> None:
    async with filled() as client:
        reply = await client.get("/node-list?fields=state,id")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.text.splitlines() == [
        "+------------+-------+", "| ID         | State |", "+------------+-------+", "| 0000000000 | ready |",
        "+------------+-------+",
    ]  # fmt: skip


async def test_one_node() -> None:
    async with filled() as client:
        headers = {"Accept": "application/json"}
        assert len((await client.get("/node-list?node_id=0000000000", headers=headers)).json()) == 1
        assert (await client.get("/node-list?node_id=0000000001", headers=headers)).json() == []


async def test_other_lists() -> None:
    async with filled() as client:
        headers = {"Accept": "application/json"}
        (request,) = (await client.get("/request-list", headers=headers)).json()
        assert request["node_types"] == ["small"]
        (build,) = (await client.get("/dib-image-list", headers=headers)).json()
        assert (build["id"], build["state"], build["formats"]) == ("debian-0000000001", "paused", ["qcow2", "raw"])
        (image,) = (await client.get("/image-status", headers=headers)).json()
        assert image == {"image": "debian", "paused": True, "build_request": None, "build_request_age": None}
        for path in ("/label-list", "/image-list"):
            assert (await client.get(path, headers=headers)).json() == []
        assert (await client.get("/no-list")).status_code == 404


async def test_answers_may_be_kept_for_a_second() -> None:
    async with filled() as client:
        first = await client.get("/node-list")
        assert first.headers["cache-control"] == "public, max-age=1"
        assert first.headers["access-control-allow-origin"] == "*"
        again = await client.get("/node-list", headers={"If-Modified-Since": first.headers["last-modified"]})
        assert again.status_code == 304
        assert again.content == b""
        assert (await client.get("/node-list", headers={"If-Modified-Since": "nonsense"})).status_code == 200


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False), ("*/*", False), ("application/json", True), ("text/plain", False), ("image/png", False),
        ("application/json, text/plain", False), ("application/json, text/plain;q=0.5", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("application/*;q=0.5, text/*;q=0.4", True), ("application/json;q=x", False),
        ("*/*;q=0.1, application/json", True),
    ],
)  # fmt: skip
def test_formats(accept: str, expected: bool) -> None:
    assert wants_json(accept) is expected


async def test_events_as_a_stream() -> None:
    launcher = Launcher(None)
    async with client_of(launcher) as client:
        assert (await client.get("/events?kinds=nonsense")).status_code == 400
    streams = EventStreams(launcher.events)
    stream = streams._stream([SessionChanged])
    assert await anext(stream) == ": nodelaunch\n\n"
    launcher.events.emit(SessionChanged(1.0, "lost"))
    assert await anext(stream) == (
        'event: session_changed\ndata: {"event": "session_changed", "at": 1.0, "state": "lost"}\n\n'
    )
    launcher.events.close()
    assert [message async for message in stream] == []
    assert not launcher.events._readers
