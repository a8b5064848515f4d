"""Whole launchers of any configuration, written as plain data, on a virtual clock; and what users do with their nodes.

Keys are Python's keywords with underscores for hyphens: ``label("small", min_ram=8192)``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodelaunch.client.nodes import NodeClient, RequestHandle
from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.errors import KeyScanError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import HostScanner
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import ImageUpload, Node, NodeRequest
from nodelaunch.protocol.states import ImageState, NodeState, RequestState
from nodelaunch.protocol.store import Lock, Put, ReleaseLock
from nodelaunch.store.embedded.store import EmbeddedStore
from support.invariants import check_invariants
from support.launchers import EPOCH, LoopClock, Running

DEADLINE_S = 50_000.0
"""Virtual seconds a test may take: one that hangs ends there."""
A_WHILE_S = 200.0
"""Longer than any pause and period of the launcher's that is not about limits, leaks or stale locks."""

Data = dict[str, Any]


# -- configurations -------------------------------------------------------------------------------------------------


def _keys(values: Mapping[str, Any]) -> Data:
    return {key.replace("_", "-"): value for key, value in values.items()}


def label(name: str = "small", **more: Any) -> Data:
    """A label of a fake pool, from cloud image ``image`` unless it names a diskimage."""
    image = {} if "diskimage" in more else {"cloud-image": "image"}
    return {"name": name, "min-ram": 8192, **image, **_keys(more)}


def pool(*labels: Data | str, name: str = "main", **more: Any) -> Data:
    """A pool of a fake provider; a label may be given by its name."""
    return {"name": name, "labels": [label(each) if isinstance(each, str) else each for each in labels], **_keys(more)}


def provider(*pools: Data, name: str = "cloud", **more: Any) -> Data:
    """A fake provider with a cloud of its own."""
    known = {"driver": "fake", "boot-time": 1.0, "delete-time": 0.5, "cloud-images": [{"name": "image"}]}
    return {"name": name, **known, **_keys(more), "pools": list(pools)}


def machine(name: str, *labels: str, **more: Any) -> Data:
    """A machine of a static pool."""
    return {"name": name, "labels": list(labels) or ["bare"], **_keys(more)}


def lab(*nodes: Data, name: str = "lab", pool_name: str = "rack", **more: Any) -> Data:
    """A static provider of one pool; *more* are keys of the pool."""
    return {"name": name, "driver": "static", "pools": [{"name": pool_name, "nodes": list(nodes), **_keys(more)}]}


def config(*providers: Data, labels: Mapping[str, Data] | None = None, **more: Any) -> Data:
    """The whole configuration. Every label the providers offer is in it; *labels* says more of some."""
    names = {name: {"name": name} for each in providers for name in _offered(each)}
    for name, said in (labels or {}).items():
        names[name] = {"name": name, **said}
    top = {"webapp": {"port": 0, "listen_address": "127.0.0.1"}, "labels": list(names.values())}
    return {**top, **_keys(more), "providers": list(providers)}


def _offered(provider_: Data) -> list[str]:
    found: list[str] = []
    for each in provider_["pools"]:
        found += [name if isinstance(name, str) else name["name"] for name in each.get("labels", [])]
        found += [name for node in each.get("nodes", []) for name in node["labels"]]
    return found


def write_config(folder: Path, content: Data) -> Path:
    """JSON is YAML."""
    path = folder / "nodepool.yaml"
    path.write_text(json.dumps(content))
    return path


# -- machines that answer key scans ---------------------------------------------------------------------------------

KEY, OTHER_KEY = "ssh-ed25519 AAAAone", "ssh-ed25519 AAAAtwo"


class Hosts:
    """A `HostScanner` of hosts that are as a test says; ``asked`` has every look."""

    def __init__(self) -> None:
        self.keys: tuple[str, ...] = (KEY,)
        self.down: set[str] = set()
        """Hosts that do not answer."""
        self.failures = 0
        """Scans that fail before the next one works."""
        self.asked: list[tuple[str, str, int]] = []

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        self._ask("keys", host, port)
        return self.keys

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        self._ask("reach", host, port)

    def _ask(self, what: str, host: str, port: int) -> None:
        self.asked.append((what, host, port))
        if self.failures:
            self.failures -= 1
            raise KeyScanError(f"{host}:{port} does not speak SSH")
        if host in self.down:
            raise KeyScanError(f"{host}:{port} refused")


# -- a launcher at work ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Taken:
    """Nodes of a fulfilled request, locked and in use, its request deleted: as a job has them."""

    site: Site
    nodes: dict[NodeId, tuple[Node, int, Lock]]

    async def give_back(self, node_id: NodeId, state: NodeState = NodeState.USED) -> None:
        node, version, lock = self.nodes.pop(node_id)
        put = Put(paths.node(node_id), node.into(state, self.site.now).to_bytes(), version)
        await self.site.client.store.commit([put, ReleaseLock(lock)], under=(lock,))

    async def give_all_back(self) -> None:
        for node_id in list(self.nodes):
            await self.give_back(node_id)


class Site(Running):
    """A launcher at work, and a client of its store."""

    folder: Path
    """Folder of the configuration, for `reload`."""

    @property
    def is_ready(self) -> bool:
        """Return whether every pool is registered and every provider has answered."""
        pools = self.launcher.pools.values()
        return not self.launcher.readiness() and all(pool.ctx.provider.down is None for pool in pools)

    @property
    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    async def reload(self, content: Data) -> None:
        """Put another configuration in force."""
        await self.launcher.reload(load_config(write_config(self.folder, content)))

    @property
    def registered(self) -> dict[tuple[str | None, str | None], tuple[str, ...]]:
        """The labels that each registered pool offers."""
        records = (seen.record for seen in self.view.pools.values())
        return {(record.provider_name, record.name): record.supported_labels for record in records}

    def cloud_of(self, name: str) -> FakeCloud:
        return self.launcher.providers[name].driver.cloud  # type: ignore[attr-defined,no-any-return]

    def creates(self, name: str = "cloud") -> list[Data]:
        """Return the creates that the provider's cloud has received so far, in order."""
        return [entry for entry in self.cloud_of(name).log() if entry["what"] == "create"]

    @property
    def idle(self) -> list[Node]:
        """Return the nodes that are ready and unassigned, in the order of ids."""
        return sorted((node for node in self.nodes() if node.is_idle), key=lambda node: node.id)

    async def until_idle(self, count: int) -> list[Node]:
        """Wait until *count* nodes are idle and no request is left."""
        await self.until(lambda: len(self.idle) == count and not self.view.requests)
        return self.idle

    async def a_while(self, seconds: float = A_WHILE_S) -> None:
        """Let virtual time pass, so that all pending timers and tasks run."""
        await asyncio.sleep(seconds)

    # -- requests --

    async def ask(self, *labels: str, **options: Any) -> RequestHandle:
        return await self.client.submit(list(labels), **options)

    async def fulfilled(self, *labels: str, **options: Any) -> NodeRequest:
        request = await self.finished(*labels, **options)
        assert request.state is RequestState.FULFILLED, request.declined_by
        return request

    async def failed(self, *labels: str, **options: Any) -> NodeRequest:
        request = await self.finished(*labels, **options)
        assert request.state is RequestState.FAILED
        assert request.nodes == ()
        return request

    async def got(self, *labels: str, **options: Any) -> list[Node]:
        """The nodes a request for *labels* got, in its order."""
        return self.nodes_of(await self.fulfilled(*labels, **options))

    def nodes_of(self, request: NodeRequest) -> list[Node]:
        return [self.view.nodes[node_id].record for node_id in request.nodes]

    def request(self, handle: RequestHandle) -> NodeRequest:
        """The request as it is now."""
        return self.view.requests[handle.id].record

    async def first_fulfilled(self, handles: dict[int, RequestHandle]) -> tuple[int, NodeRequest]:
        """Wait until exactly one of *handles* is fulfilled; which, and its request. It is taken out of *handles*."""

        def fulfilled() -> list[int]:
            return [n for n, handle in handles.items() if self.request(handle).state is RequestState.FULFILLED]

        await self.until(lambda: bool(fulfilled()))
        (number,) = fulfilled()
        return number, self.request(handles.pop(number))

    def states_of(self, handle: RequestHandle) -> list[RequestState]:
        """Filled with each state the request is seen in, the one it was submitted in first, none twice in a row."""
        seen = [handle.request.state]

        def note(_note: object) -> None:
            request = self.view.request(handle.id)
            if request is not None and seen[-1:] != [request.state]:
                seen.append(request.state)

        self.view.subscribe(note)
        note(None)
        return seen

    # -- nodes --

    async def take(self, request: NodeRequest) -> Taken:
        """Lock the nodes of a fulfilled *request*, put them in use, delete the request, as Zuul does."""
        store = self.client.store
        nodes: dict[NodeId, tuple[Node, int, Lock]] = {}
        for node_id in request.nodes:
            lock = await store.lock(paths.node_lock(node_id))
            node = self.view.nodes[node_id].record.into(NodeState.IN_USE, self.now)
            entry = await store.put(paths.node(node_id), node.to_bytes(), under=(lock,))
            nodes[node_id] = (node, entry.stat.version, lock)
        await store.delete(paths.request(request.id))
        return Taken(self, nodes)

    async def set_node(self, node: Node, state: NodeState | None = None, **changes: Any) -> None:
        """Write *node* under its lock, as an operator's tool does."""
        lock = await self.client.store.lock(paths.node_lock(node.id))
        changed = node.into(state or node.state, self.now, **changes)
        await self.client.store.put(paths.node(node.id), changed.to_bytes(), under=(lock,))
        await lock.release()

    async def add_node(self, data: bytes) -> NodeId:
        """Put a record there that no launcher made."""
        entry = await self.client.store.create(paths.NEW_NODE, data, sequence=True)
        return paths.node_id_at(entry.path) or NodeId("")

    async def upload(self, image: str = "debian", provider: str = "cloud", **fields: Any) -> str:
        """Record an upload of a diskimage, as a builder does; its path."""
        return await add_upload(self.client.store, image, provider, **{"state_time": self.now, **fields})


async def add_upload(store: Any, image: str = "debian", provider: str = "cloud", **fields: Any) -> str:
    known = {"state": ImageState.READY, "external_id": f"{image}-at-{provider}", "external_name": image, **fields}
    parent = paths.uploads(image, "0" * 32, provider)
    upload = ImageUpload(path="", image=image, build_id="0" * 32, provider=provider, upload_id="", **known)
    await store.ensure(parent)
    entry = await store.create(f"{parent}/", upload.to_bytes(), sequence=True)
    return str(entry.path)


@asynccontextmanager
async def launched(
    folder: Path,
    content: Data,
    *,
    store: EmbeddedStore | None = None,
    scanner: HostScanner | None = None,
    drivers: DriverRegistry | None = None,
    hostname: str = "here",
    until: Callable[[Site], bool] = lambda site: site.is_ready,
) -> AsyncIterator[Site]:
    """A launcher of this configuration, on *store* if it shares one with others; ready when *until* holds."""
    owner = store or EmbeddedStore(None, clock=LoopClock().now)
    session = owner if store is None else store.connect()
    launcher = Launcher(
        load_config(write_config(folder, content), drivers=drivers),
        store=session, clock=LoopClock(), scanner=scanner, drivers=drivers, hostname=hostname,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S), launcher:
        at_work = asyncio.ensure_future(launcher.run())
        try:
            async with owner.connect() as other, NodeClient(other, clock=LoopClock()) as client:
                site = Site(launcher, client, session)  # type: ignore[arg-type]
                site.folder = folder
                await site.until(lambda: until(site))
                yield site
        finally:
            at_work.cancel()
            await asyncio.gather(at_work, return_exceptions=True)
        check_invariants(launcher.view)


@asynccontextmanager
async def shared_store() -> AsyncIterator[EmbeddedStore]:
    """A store for several launchers, at once or one after the other."""
    async with EmbeddedStore(None, clock=LoopClock().now) as store:
        yield store


def is_paused(site: Site, names: Collection[tuple[str, str]] = (("cloud", "main"),)) -> bool:
    """Return whether these pools report to other launchers that they are full."""
    told = {(seen.record.provider_name, seen.record.name): seen.record.paused for seen in site.view.pools.values()}
    return all(told[name] for name in names)
