"""The launcher survives any message of a driver's process: it serves its other providers, and leaves nothing behind.

``NODELAUNCH_FUZZ_EXAMPLES`` sets how many scripts are tried, drawn anew each time; without it they are few, and always
the same.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nodelaunch.client.nodes import NodeClient
from nodelaunch.driverhost.process import driver as process_driver
from nodelaunch.driverhost.process import supervisor
from nodelaunch.driverhost.process.driver import ProcessDriver
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire import peer
from nodelaunch.engine.cleanup.leaks import find_leaks
from nodelaunch.engine.launch import node as launch
from nodelaunch.engine.provider import breakers
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import ExternalId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support import hostile
from support.launchers import LoopClock, Running, at_work, written
from support.processes import running

GIVEN = os.environ.get("NODELAUNCH_FUZZ_EXAMPLES")
EXAMPLES = int(GIVEN or 25)
DEADLINE_S = 60.0
PATIENCE_S = 0.6
"""Time limit for a request of the hostile provider, which is withdrawn after that."""
CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: good}}, {{name: evil}}]
providers:
  - {{name: good, driver: test, pools: [{{name: main, max-servers: 20, labels: [good]}}]}}
  - name: evil
    driver: {driver}
    launch-timeout: 1
    launch-retries: 2
    pools: [{{name: main, max-servers: 20, labels: [{{name: evil}}]}}]
"""

# -- what it says ------------------------------------------------------------------------------------------------------

odd = st.sampled_from(
    [
        None, True, False, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", "x", "\n\x1b[2J", "half \ud800", "\0",
        "x" * 5000, "$HUGE", [], {}, [None], {"a": [1]}, {"nodepool_provider_name": "good"}, "$DEEP",
        {"a": "$DEEP"},
    ]
)  # fmt: skip
values = odd | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FIELDS: dict[str, list[list[str]]] = {
    "driver.open": [
        ["labels"],
        ["machines"],
        ["labels", "traits"],
        *(["labels", "traits", f] for f in m.Traits.model_fields),
    ],
    "instance.create": [[field] for field in m.CreateResult.model_fields],
    "instance.wait": [["instance"], *(["instance", field] for field in m.InstanceInfo.model_fields)],
    "instance.delete": [[]],
    "instance.list": [["instances"], ["next_cursor"], *(["instances", field] for field in m.InstanceInfo.model_fields)],
    "instance.host_keys": [["host_keys"]],
    "instance.console_log": [["text"]],
    "cloud.zones": [["zones"]],
    "quota.limits": [["amounts"], ["amounts", "instances"]],
    "label.usage": [["amounts"], ["amounts", "instances"]],
    "label.ready": [["is_ready"]],
}
"""Fields of each method's result, by method."""
METHODS = [*FIELDS, *["instance.create", "instance.wait"] * 3]

errors = st.fixed_dictionaries(
    {"code": st.just(-32000) | values, "message": st.just("no") | values},
    optional={
        "data": values
        | st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["quota", "transient", "config", "auth", "permanent", "rate_limit", "x"])
                | values
            },
            optional=dict.fromkeys(("scope", "retry_after_s", "external_id", "may_exist"), values),
        )
    },
)
ids = st.just("$ID") | values
answers = st.fixed_dictionaries({"id": ids}, optional={"result": values, "error": errors | values})
notes = st.fixed_dictionaries(
    {"method": st.sampled_from(["log", "progress", "$/cancel", "cluster.changed"]) | values},
    optional={
        "params": values
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("event", "level", "fields", "id", "call", "stage", "external_id"), values)
        )
    },
)
questions = st.fixed_dictionaries(
    {"method": st.sampled_from(["cluster.state", "cluster.leases", "ping", "x"]) | values, "id": ids},
    optional={"params": values},
)
messages = st.fixed_dictionaries({"message": answers | notes | questions})
raws = st.fixed_dictionaries(
    {
        "raw": st.sampled_from(
            ["\n", "{}\n", "[]\n", "null\n", "{", "[" * 100_000 + "\n", " " * (1 << 20) + "\n", "\ud800\n"]
        )
        | st.text(max_size=20).map(lambda text: text + "\n")
    }
)


@st.composite
def scripts(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Draw scripts for one or two methods."""
    script: dict[str, list[Any]] = {}
    for method in draw(st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True)):
        change = st.tuples(st.sampled_from(FIELDS[method]), values).map(lambda pair: {"change": list(pair)})
        script[method] = draw(st.lists(change | change | messages | raws, max_size=3))
    return script


# -- the launcher ------------------------------------------------------------------------------------------------------


async def refused_at_worst(call: Awaitable[Any]) -> None:
    """Check that the call returns, or raises only the errors that a driver may raise."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await call
    except (DriverError, TimeoutError):
        pass


class Site:
    """A launcher with a healthy and a hostile provider, and what was logged."""

    def __init__(self, made: Running, folder: Path, entries: list[MutableMapping[str, Any]]) -> None:
        self.made = made
        self.folder = folder
        self.entries = entries
        self.seen: Counter[str] = Counter()
        """Number of log lines by event."""

    @property
    def evil(self) -> ProcessDriver:
        driver = self.made.launcher.providers["evil"].driver
        assert isinstance(driver, ProcessDriver)
        return driver

    def tell(self, script: dict[str, list[Any]]) -> None:
        new = self.folder / "new"
        new.write_text(dumps(script))
        new.rename(self.folder / "script")

    async def job(self, label: str) -> Node:
        """A request to its fulfilment, in time."""
        async with asyncio.timeout(DEADLINE_S):
            (node,) = await self.made.job(label)
        return node

    async def try_all(self) -> None:
        """Cause a call of each method, even if the launcher does not need it now."""
        spec = process_driver.InstanceSpec("0", "np-0", "main", "evil", {})
        driver = self.evil
        calls = [
            driver.create_instance(spec),
            driver.wait_until_active(ExternalId("np-0")),
            find_leaks(driver, "evil", lambda _node_id: None),
            driver.quota_limits(),
            driver.quota_for_label("main", "evil"),
            driver.label_ready("main", "evil"),
            driver.zones(),  # type: ignore[attr-defined]
            driver.host_keys(ExternalId("np-0")),  # type: ignore[attr-defined]
            driver.console_log(ExternalId("np-0")),  # type: ignore[attr-defined]
            driver.delete_instance(ExternalId("np-0")),
        ]
        await asyncio.gather(*(refused_at_worst(call) for call in calls))

    async def attempt(self, script: dict[str, list[Any]]) -> None:
        """A launch, and every other call, while the driver says what is in *script*; then it is honest again."""
        evil = self.made.launcher.providers["evil"]
        async with asyncio.timeout(DEADLINE_S):
            await self.made.until(lambda: evil.down is None)
        self.tell(script)
        handle = await self.made.client.submit(["evil"])
        evil.invalidate()
        trying = asyncio.ensure_future(self.try_all())
        await self.job("good")
        try:
            async with asyncio.timeout(PATIENCE_S):
                await handle.finished()
        except TimeoutError:
            pass
        await handle.cancel()
        await trying
        self.tell({})
        faults = [entry for entry in self.entries if entry["level"] in ("error", "exception", "critical")]
        # what the driver itself says is logged as it wants
        assert [entry for entry in faults if entry["event"] != "driver_says"] == []
        self.seen.update(entry["event"] for entry in self.entries)
        self.entries.clear()


@asynccontextmanager
async def site(folder: Path, entries: list[MutableMapping[str, Any]]) -> AsyncIterator[Site]:
    instances = folder / "instances"
    instances.mkdir()
    (instances / "script").write_text("{}")
    program = folder / "nodelaunch-driver-hostile"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {hostile.__file__} {instances}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    store = EmbeddedStore(None)
    config = await asyncio.to_thread(written, folder, CONFIG, driver=program)
    async with (
        at_work(config, store) as launcher,
        store.connect() as session,
        NodeClient(session, clock=LoopClock()) as client,
    ):
        yield Site(Running(launcher, client, store), instances, entries)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[MutableMapping[str, Any]]:
    """Collect the log entries of the test, and shorten all waits."""
    taken: list[MutableMapping[str, Any]] = []

    def take(_logger: Any, method: str, entry: MutableMapping[str, Any]) -> str:
        taken.append({**entry, "level": method})
        raise structlog.DropEvent

    structlog.configure(processors=[take], wrapper_class=structlog.make_filtering_bound_logger(0))
    quick = partial(supervisor.Restarts, first_s=0.001, last_s=0.01)
    monkeypatch.setattr(supervisor, "Restarts", quick)
    monkeypatch.setattr(process_driver, "QUESTION_S", 0.7)
    monkeypatch.setattr(process_driver, "DELETE_S", 0.7)
    monkeypatch.setattr(peer, "CANCEL_GRACE_S", 0.1)
    for module in (breakers, launch):
        monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.05)
        monkeypatch.setattr(module, "LAST_BACKOFF_S", 0.1)
    return taken


@pytest.mark.filterwarnings(
    # asyncio leaves a connection to the garbage collector that is accepted while its server closes
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
def test_hostile_driver_harms_nobody_else(tmp_path: Path, entries: list[MutableMapping[str, Any]]) -> None:
    with asyncio.Runner() as runner:
        opened = site(tmp_path, entries)
        here = runner.run(opened.__aenter__())
        kept = runner.run(_kept(here))
        assert kept.external_id is not None
        assert runner.run(here.job("evil")).provider == "evil", "as long as it is honest"

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=GIVEN is None,
            suppress_health_check=list(HealthCheck),
        )
        @example({"instance.create": [{"change": [["external_id"], ""]}]})
        @example({"instance.create": [{"change": [["external_id"], "np-\n"]}]})
        @example({"instance.wait": [{"change": [["instance", "driver_data"], "$DEEP"]}]})
        @example({"instance.wait": [{"change": [["instance", "node_properties"], {"a": 10**30}]}]})
        @example({"instance.wait": [{"raw": '{"jsonrpc":"2.0","method":"log","params":{"event":"\\ud800"}}\n'}]})
        @example({"quota.limits": [{"change": [["amounts"], {"instances": float("nan")}]}]})
        @example({"label.usage": [{"change": [["amounts"], {"instances": float("inf")}]}]})
        @example({"instance.list": [{"change": [["next_cursor"], "again"]}]})
        @given(scripts())
        def go_on(script: dict[str, list[Any]]) -> None:
            runner.run(here.attempt(script))

        go_on()
        assert here.seen.keys() >= {"launch_failed", "provider_unavailable", "driver_broke_protocol", "node_ready"}
        assert runner.run(here.job("evil")).provider == "evil", "it is honest again"
        (node,) = (node for node in here.made.nodes(NodeState.READY) if node.id == kept.id)
        instances = here.made.launcher.providers["good"].driver._cloud.instances  # type: ignore[attr-defined]
        assert node.external_id in instances, "nothing of the others is deleted"
        runner.run(opened.__aexit__(None, None, None))
        runner.run(_closed(here))
    assert running(str(tmp_path)) == {}, "no process is left"


async def _kept(here: Site) -> Node:
    """Return a node of the healthy provider that has an owner for the whole test."""
    async with asyncio.timeout(DEADLINE_S):
        request = await here.made.finished("good")
    assert request.state is RequestState.FULFILLED
    return next(node for node in here.made.nodes(NodeState.READY) if node.id in request.nodes)


async def _closed(here: Site) -> None:
    for each in here.made.launcher.providers.values():
        await each.driver.aclose()
