"""What this launcher knows of the cluster: requests, nodes, locks and registered pools, decoded once per version.

Fed by trees of the store, read by everything in the engine, synchronously. A listener is told what changed right after
it changed. A record that can't be read is logged once, left alone, and not shown.

What does *not* belong here: any decision, any write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import INSTANCES, NOTHING, Usage
from nodelaunch.protocol.records import (
    ImageBuild,
    ImageUpload,
    KnownPool,
    Node,
    NodeRequest,
    PoolRegistration,
    Presence,
)
from nodelaunch.protocol.states import ImageState
from nodelaunch.protocol.store import Changed, Cooled, Entry, Removed, Store, Tree, TreeEvent, Unsubscribe, Warmed

log = structlog.get_logger(__name__)

R = TypeVar("R", NodeRequest, Node, PoolRegistration, ImageBuild, ImageUpload, Presence, KnownPool)


@dataclass(frozen=True, slots=True)
class Seen(Generic[R]):
    """A record as of one version of its znode."""

    record: R
    entry: Entry

    @property
    def version(self) -> int:
        return self.entry.stat.version


# -- what listeners are told ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestSeen:
    """A request is new or changed."""

    id: RequestId


@dataclass(frozen=True, slots=True)
class RequestRemoved:
    id: RequestId
    request: NodeRequest


@dataclass(frozen=True, slots=True)
class RequestUnlocked:
    """The last contender for a request's lock is gone."""

    id: RequestId


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node is new or changed."""

    id: NodeId
    old: Node | None


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    id: NodeId
    node: Node


@dataclass(frozen=True, slots=True)
class NodeUnlocked:
    """The last contender for a node's lock is gone."""

    id: NodeId


@dataclass(frozen=True, slots=True)
class PoolsChanged:
    """A pool registered, changed or left."""


@dataclass(frozen=True, slots=True)
class PresencesChanged:
    """A nodelaunch process came, changed or left."""


@dataclass(frozen=True, slots=True)
class ImagesChanged:
    """A build or upload of an image began, became usable, or stopped being so."""


@dataclass(frozen=True, slots=True)
class ViewWarmed:
    """All is complete and current."""


@dataclass(frozen=True, slots=True)
class ViewCooled:
    """What is known may be stale from here on."""


Note = (
    RequestSeen | RequestRemoved | RequestUnlocked | NodeSeen | NodeRemoved | NodeUnlocked | PoolsChanged
    | PresencesChanged | ImagesChanged | ViewWarmed | ViewCooled
)  # fmt: skip
Listener = Callable[[Note], None]


class ClusterView:
    """The live copy. Open with `open_view`."""

    def __init__(self) -> None:
        self.requests: dict[RequestId, Seen[NodeRequest]] = {}
        self.nodes: dict[NodeId, Seen[Node]] = {}
        self.pools: dict[str, Seen[PoolRegistration]] = {}
        self.presences: dict[str, Seen[Presence]] = {}
        self.known_pools: dict[tuple[str, str], Seen[KnownPool]] = {}
        """By provider and pool; registered or not."""
        self.builds: dict[str, Seen[ImageBuild]] = {}
        self.uploads: dict[str, Seen[ImageUpload]] = {}
        self.unreadable: dict[str, Entry] = {}
        """Request and node znodes whose data is no record; empty ones among them."""
        self._node_contenders: defaultdict[NodeId, set[str]] = defaultdict(set)
        self._request_contenders: defaultdict[RequestId, set[str]] = defaultdict(set)
        self._request_lock_dirs: dict[RequestId, float] = {}
        self._usage = _UsageIndex()
        self._nodes_of: defaultdict[str | None, dict[NodeId, None]] = defaultdict(dict)
        """Kept in order, so that what is done about them is done in the same order in every run."""
        self._listeners: list[Listener] = []
        self._trees: list[Tree] = []
        self.discarded: set[NodeId] = set()
        """Nodes that this process has marked for deletion, as far as they are still there."""
        self.interrupted: dict[NodeId, int] = {}
        """Nodes whose launch broke off with their launcher, by the version they have since then: whoever works on their
        request next goes on with them."""
        self.is_open = False
        """Whether every tree is attached."""

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def is_warm(self) -> bool:
        """Complete and current. While false, nothing may be concluded from what is missing."""
        return self.is_open and all(tree.is_warm for tree in self._trees)

    async def warm(self) -> None:
        """Wait until warm."""
        while not self.is_warm:
            for tree in self._trees:
                await tree.warm()

    def request(self, request_id: RequestId | None) -> NodeRequest | None:
        seen = self.requests.get(request_id) if request_id else None
        return seen.record if seen else None

    def nodes_of(self, provider: str | None) -> Iterable[Seen[Node]]:
        """The nodes of *provider*; those without any for None."""
        return [self.nodes[node_id] for node_id in self._nodes_of[provider]]

    def node(self, node_id: str) -> Node | None:
        seen = self.nodes.get(NodeId(node_id))
        return seen.record if seen is not None else None

    def nodes_allocated_to(self, request_id: RequestId) -> list[Seen[Node]]:
        return [seen for seen in self.nodes.values() if seen.record.allocated_to == request_id]

    def interrupted_nodes(self) -> list[Node]:
        """Nodes whose launch broke off, and that nobody has gone on with."""
        seen = (self.nodes[node_id] for node_id in self.interrupted if node_id in self.nodes)
        return [each.record for each in seen if self.is_interrupted(each)]

    def is_interrupted(self, seen: Seen[Node]) -> bool:
        return self.interrupted.get(seen.record.id) == seen.version

    def is_node_locked(self, node_id: NodeId) -> bool:
        """Whether anybody contends for the node's lock."""
        return bool(self._node_contenders.get(node_id))

    def is_request_locked(self, request_id: RequestId) -> bool:
        return bool(self._request_contenders.get(request_id))

    @property
    def request_lock_dirs(self) -> Mapping[RequestId, float]:
        """Lock directories of requests, with the time each was made."""
        return self._request_lock_dirs

    def used(self, provider: str, pool: str | None = None) -> Usage:
        """What the recorded nodes of a provider, or of one of its pools, take, in whatever state they are."""
        return self._usage.of_provider(provider) if pool is None else self._usage.of_pool(provider, pool)

    def used_by_tenant(self, tenant: str) -> Usage:
        return self._usage.of_tenant(tenant)

    def newest_upload(self, image: str, provider: str) -> ImageUpload | None:
        """The upload to boot: ready, and made ready last."""
        ready = [
            seen.record
            for seen in self.uploads.values()
            if (seen.record.image, seen.record.provider) == (image, provider) and seen.record.state is ImageState.READY
        ]
        return max(ready, key=lambda upload: upload.state_time, default=None)

    def image_begun_at(self, image: str, provider: str) -> float | None:
        """When a builder last began what may become the first usable upload of *image*, by the wall clock, seconds;
        None while nothing is under way."""
        uploading = [
            seen.record.state_time
            for seen in self.uploads.values()
            if (seen.record.image, seen.record.provider) == (image, provider)
            and seen.record.state is ImageState.UPLOADING
        ]
        tried = {s.record.build_id for s in self.uploads.values() if s.record.provider == provider}
        building = [
            seen.record.state_time
            for seen in self.builds.values()
            if seen.record.image == image
            and seen.record.state in (ImageState.BUILDING, ImageState.READY)
            and seen.record.build_id not in tried
        ]
        return max(uploading + building, default=None)

    def subscribe(self, listener: Listener) -> Unsubscribe:
        """Call *listener* with each `Note` from now on; it must not block and must not raise."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # -- being fed --------------------------------------------------------------------------------------------------

    def attach(self, tree: Tree, on_entry: Callable[[Entry, bool], Note | None]) -> None:
        """Be fed from *tree*: *on_entry* takes in one entry (and whether it is there) and says what to tell."""

        def on_event(event: TreeEvent) -> None:
            match event:
                case Changed(entry, _):
                    self._tell(on_entry(entry, True))
                case Removed(entry):
                    self._tell(on_entry(entry, False))
                case Warmed():
                    if self.is_warm:
                        self._tell(ViewWarmed())
                case Cooled():
                    self._tell(ViewCooled())

        self._trees.append(tree)
        tree.subscribe(on_event)
        for entry in list(tree.entries()):
            on_entry(entry, True)

    def _tell(self, note: Note | None) -> None:
        if note is not None:
            for listener in tuple(self._listeners):
                listener(note)

    def on_request_entry(self, entry: Entry, is_there: bool) -> Note | None:
        request_id = paths.request_id_at(entry.path)
        if request_id is None:
            return None
        old = self.requests.pop(request_id, None)
        self.unreadable.pop(entry.path, None)
        if not is_there:
            return RequestRemoved(request_id, old.record) if old else None
        record = self._decode(
            entry, lambda e: NodeRequest.from_bytes(e.path, e.data, request_id=request_id, modified_at=_age(e))
        )
        if record is None or not paths.is_request_id(request_id):
            return RequestRemoved(request_id, old.record) if old else None
        self.requests[request_id] = Seen(record, entry)
        return RequestSeen(request_id)

    def on_request_lock_entry(self, entry: Entry, is_there: bool) -> Note | None:
        request_id = paths.request_id_of_contender(entry.path)
        if request_id is not None:
            contenders = self._request_contenders[request_id]
            (contenders.add if is_there else contenders.discard)(entry.path)
            if not contenders:
                del self._request_contenders[request_id]
                return RequestUnlocked(request_id)
        elif paths.is_child(entry.path, paths.REQUEST_LOCKS):
            directory = RequestId(entry.path[len(paths.REQUEST_LOCKS) + 1 :])
            if is_there:
                self._request_lock_dirs[directory] = entry.stat.created_at
            else:
                self._request_lock_dirs.pop(directory, None)
        return None

    def on_node_entry(self, entry: Entry, is_there: bool) -> Note | None:
        node_id = paths.node_id_at(entry.path)
        if node_id is not None:
            return self._on_node(node_id, entry, is_there)
        contended = paths.node_id_of_contender(entry.path)
        if contended is not None:
            contenders = self._node_contenders[contended]
            (contenders.add if is_there else contenders.discard)(entry.path)
            if not contenders:
                del self._node_contenders[contended]
                return NodeUnlocked(contended)
        return None

    def _on_node(self, node_id: NodeId, entry: Entry, is_there: bool) -> Note | None:
        old = self.nodes.pop(node_id, None)
        self.unreadable.pop(entry.path, None)
        if old is not None:
            self._usage.remove(old.record)
            self._nodes_of[old.record.provider].pop(node_id, None)
        record = None
        if is_there:
            record = self._decode(
                entry, lambda e: Node.from_bytes(e.path, e.data, node_id=node_id, modified_at=_age(e))
            )
        if record is None:
            self.discarded.discard(node_id)
            self.interrupted.pop(node_id, None)
            return NodeRemoved(node_id, old.record) if old else None
        self.nodes[node_id] = Seen(record, entry)
        self._usage.add(record)
        self._nodes_of[record.provider][node_id] = None
        return NodeSeen(node_id, old.record if old else None)

    def on_pool_entry(self, entry: Entry, is_there: bool) -> Note | None:
        if not paths.is_child(entry.path, paths.POOLS):
            return None
        self.pools.pop(entry.path, None)
        if is_there:
            record = self._decode(entry, lambda e: PoolRegistration.from_bytes(e.path, e.data))
            if record is not None:
                self.pools[entry.path] = Seen(record, entry)
        return PoolsChanged()

    def on_presence_entry(self, entry: Entry, is_there: bool) -> Note | None:
        self.presences.pop(entry.path, None)
        if is_there:
            record = self._decode(entry, lambda e: Presence.from_bytes(e.path, e.data))
            if record is not None:
                self.presences[entry.path] = Seen(record, entry)
        return PresencesChanged()

    def on_known_pool_entry(self, entry: Entry, is_there: bool) -> Note | None:
        names = paths.known_pool_at(entry.path)
        if names is None:
            return None
        self.known_pools.pop(names, None)
        if is_there:
            record = self._decode(entry, lambda e: KnownPool.from_bytes(e.path, e.data, names=names))
            if record is not None:
                self.known_pools[names] = Seen(record, entry)
        return PoolsChanged()

    def on_image_entry(self, entry: Entry, is_there: bool) -> Note | None:
        if (build := paths.build_at(entry.path)) is not None:
            self._on_build(build, entry, is_there)
            return ImagesChanged()
        parts = paths.upload_at(entry.path)
        if parts is None:
            return None
        self.uploads.pop(entry.path, None)
        if is_there:
            record = self._decode(
                entry, lambda e: ImageUpload.from_bytes(e.path, e.data, parts=parts, modified_at=_age(e))
            )
            if record is not None:
                self.uploads[entry.path] = Seen(record, entry)
        return ImagesChanged()

    def _on_build(self, parts: tuple[str, str], entry: Entry, is_there: bool) -> None:
        self.builds.pop(entry.path, None)
        if is_there:
            record = self._decode(
                entry, lambda e: ImageBuild.from_bytes(e.path, e.data, parts=parts, modified_at=_age(e))
            )
            if record is not None:
                self.builds[entry.path] = Seen(record, entry)

    def _decode(self, entry: Entry, decode: Callable[[Entry], R]) -> R | None:
        try:
            return decode(entry)
        except RecordInvalidError as error:
            self.unreadable[entry.path] = entry
            log.warning("record_unreadable", path=error.path, detail=error.detail, version=entry.stat.version)
            return None


def _age(entry: Entry) -> float:
    return entry.stat.modified_at


class _UsageIndex:
    """Sums of what nodes take, kept up to date node by node."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Usage] = {}

    def add(self, node: Node) -> None:
        for key in self._keys(node):
            self._sums[key] = self._sums.get(key, NOTHING) + _usage(node)

    def remove(self, node: Node) -> None:
        for key in self._keys(node):
            self._sums[key] = self._sums[key] - _usage(node)

    @staticmethod
    def _keys(node: Node) -> list[tuple[str, ...]]:
        keys: list[tuple[str, ...]] = []
        if node.provider:
            keys = [("provider", node.provider), ("pool", node.provider, node.pool or "")]
        if node.tenant_name and not node.is_idle:
            keys.append(("tenant", node.tenant_name))
        return keys

    def of_provider(self, provider: str) -> Usage:
        return self._sums.get(("provider", provider), NOTHING)

    def of_pool(self, provider: str, pool: str) -> Usage:
        return self._sums.get(("pool", provider, pool), NOTHING)

    def of_tenant(self, tenant: str) -> Usage:
        return self._sums.get(("tenant", tenant), NOTHING)


def _usage(node: Node) -> Usage:
    """A record that doesn't say what it takes is at least one instance; static nodes never say."""
    usage = node.usage
    return Usage({INSTANCES: 1}) if usage is None and node.hostname is None else usage or NOTHING


@asynccontextmanager
async def open_view(store: Store) -> AsyncIterator[ClusterView]:
    """A view fed from *store*; entering doesn't wait until it is warm."""
    view = ClusterView()
    async with AsyncExitStack() as stack:
        for root, on_entry, wants_data in (
            (paths.REQUESTS, view.on_request_entry, _always),
            (paths.REQUEST_LOCKS, view.on_request_lock_entry, _never),
            (paths.NODES, view.on_node_entry, _is_node),
            (paths.POOLS, view.on_pool_entry, _always),
            (paths.PRESENCES, view.on_presence_entry, _always),
            (paths.KNOWN_POOLS, view.on_known_pool_entry, _always),
            (paths.IMAGES, view.on_image_entry, _is_image),
        ):
            tree = await stack.enter_async_context(store.tree(root, wants_data=wants_data))
            view.attach(tree, on_entry)
        view.is_open = True
        yield view


def _always(_path: str) -> bool:
    return True


def _never(_path: str) -> bool:
    return False


def _is_node(path: str) -> bool:
    """Lock directories and contenders are only counted, never read."""
    return paths.node_id_at(path) is not None


def _is_image(path: str) -> bool:
    return paths.build_at(path) is not None or paths.upload_at(path) is not None
