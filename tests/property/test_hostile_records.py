"""Launchers survive any record in the store: good requests are served, and records of others stay.

`NODELAUNCH_EXAMPLES` sets how many cases are tried. Time is virtual; an endless loop is a failure.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from fuzz.clock import VirtualLoop
from nodelaunch.errors import StoreError
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.store import Store
from support.launchers import running

EXAMPLES = int(os.environ.get("NODELAUNCH_EXAMPLES", "60"))
DEADLINE_S = 900.0

TEMPLATES: dict[str, dict[str, Any]] = {
    paths.REQUESTS: {
        "state": "requested", "state_time": 1.0, "node_types": ["small"], "requestor": "somebody", "declined_by": [],
        "nodes": [], "reuse": True, "requestor_data": None, "provider": None, "relative_priority": 0,
        "event_id": "event", "created_time": 1.0, "tenant_name": None,
    },
    paths.NODES: {
        "state": "ready", "state_time": 1.0, "provider": "cloud", "pool": "main", "type": ["small"],
        "allocated_to": None, "external_id": "none", "resources": {"instances": 1}, "slot": None,
        "hold_expiration": None, "connection_port": 22, "host_keys": [], "attributes": None, "tenant_name": None,
        "driver_data": None, "az": None, "launcher": "somebody", "username": "zuul",
    },
    paths.POOLS: {
        "kind": "pool", "hostname": "host", "state": "running", "id": "id", "name": "main", "provider_name": "other",
        "supported_labels": ["small"], "priority": 100, "paused": True, "model_api": 0,
    },
    paths.PRESENCES: {"id": "somebody", "providers": ["cloud"], "knows": []},
    paths.INVENTORIES: {},
    paths.QUESTIONS: {"request": "200-0000000001"},
    paths.LEDGERS: {},
    paths.IMAGES: {"state": "ready", "state_time": 1.0},
    paths.METASTATIC: {"label": "small", "slots": 2},
    paths.KNOWN_POOLS: {"labels": ["small"], "priority": 100},
}  # fmt: skip
"""Well-formed records by place, from which malformed ones are built."""

SOMEBODYS = Node(
    id=paths.NodeId("0000009999"), state=NodeState.BUILDING, state_time=1.0, provider="elsewhere", pool="main",
    type=("small",), external_id="theirs",
)  # fmt: skip


class Write(tuple[str, bytes]):
    """A path, and what is written there."""

    __slots__ = ()

    def __repr__(self) -> str:
        path, data = self
        return repr((path, data if len(data) < 300 else data[:20] + b"..." + str(len(data)).encode()))


scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["ready", "pending", "fulfilled", "in-use", "deleting", "small", "cloud", "main", "\ud800"])
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
raw = st.binary(max_size=20) | st.sampled_from(
    [b"", b"{", b"null", b"[" * 100_000, b'{"a":' * 50_000, b'"' + b"x" * 900_000 + b'"', b"\xff\xfe{", b"1e999"]
)
names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6) | (
    st.sampled_from(
        ["200-0000000001", "100-0000000002", "0000000001", "0000000007", "lock", "cloud", "main", "builds", "images",
         "providers", "backing", "nodes", "0__lock__0000000001", "x" * 300]
    )
)  # fmt: skip
UNLIMITED = {"resources", "priority"}
"""Fields whose every value has an effect: that a quota is used up, or that a request goes first."""


@st.composite
def writes(draw: st.DrawFn) -> Write:
    root = draw(st.sampled_from([*TEMPLATES, paths.REQUEST_LOCKS, paths.ROOT, paths.OWN_ROOT]))
    path = "/".join([root, *draw(st.lists(names, min_size=1, max_size=4))])
    assume(not any(each == path or each.startswith(f"{path}/") for each in [*TEMPLATES, *paths.ALWAYS_THERE]))
    template = TEMPLATES.get(root, {})
    if not draw(st.booleans()):
        return Write((path, draw(raw)))
    changed = draw(st.dictionaries(st.sampled_from([*sorted(template), "odd"]), values, max_size=3))
    body = {**template, **{key: value for key, value in changed.items() if key not in UNLIMITED}}
    return Write((path, json.dumps(body).encode(draw(st.sampled_from(["utf-8"] * 4 + ["utf-16", "utf-8-sig"])))))


async def write(store: Store, path: str, data: bytes) -> None:
    with suppress(StoreError):  # the store takes not everything
        await store.create(path, data, parents=True)
        return
    with suppress(StoreError):
        await store.put(path, data)


async def goes_on(folder: Path, hostile: list[Write]) -> None:
    async with asyncio.timeout(DEADLINE_S), running(folder, max_servers=1000) as site:
        store = site.client.store
        theirs = site.cloud.add()
        await store.create(paths.node(SOMEBODYS.id), SOMEBODYS.to_bytes())
        before = await site.client.submit(["small"])
        for path, data in hostile:
            await write(store, path, data)
        after = await site.client.submit(["small"])
        for handle in (before, after):
            request = await handle.finished()
            assert request.state is RequestState.FULFILLED
            async with site.client.hold(request):
                pass
        assert (await store.get(paths.node(SOMEBODYS.id))).data == SOMEBODYS.to_bytes()
        assert site.cloud.server(theirs) is not None
        for path, _ in hostile:
            with suppress(StoreError):
                await store.delete_tree(path)
        assert (await site.finished("small")).state is RequestState.FULFILLED


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(writes(), max_size=12))
@example([Write((f"{paths.NODES}/0000000001", b"[" * 100_000))])
@example([Write((f"{paths.QUESTIONS}/0", b"[" * 100_000))])
@example([Write((f"{paths.REQUEST_LOCKS}/odd/odd/0__lock__0000000001", b""))])
@example([Write((f"{paths.REQUESTS}/200-0000000001/deeper/lock", b"{}"))])
def test_launcher_goes_on_whatever_somebody_writes(hostile: list[Write]) -> None:
    structlog.configure(processors=[_nothing_broke])
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(goes_on(Path(folder), hostile))


def _nothing_broke(_logger: object, level: str, event: dict[str, Any]) -> dict[str, Any]:
    """Fail on log lines at error level: a faulty record is a warning, an error is a fault of the launcher."""
    if level in ("error", "critical"):
        raise AssertionError(event)
    raise structlog.DropEvent
