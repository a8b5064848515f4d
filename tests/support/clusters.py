"""A cluster with one leased node and prepared answers, for both ends of the capability ``cluster``."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nodelaunch.driverhost.process.clusterserver import ClusterServer
from nodelaunch.driverhost.wire import cluster as c
from nodelaunch.driverhost.wire.messages import CANCEL, MAX_LINE, Call
from nodelaunch.driverhost.wire.peer import Peer
from nodelaunch.errors import RequestFailedError, StoreUnavailableError
from nodelaunch.protocol.cluster import Backing, Leases
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Claim, Lease, Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState

NOW = 1_700_000_000.0
Json = dict[str, Any]


def a_lease(node_id: str = "0000000007") -> Lease:
    return Lease(node_id=NodeId(node_id), label="slot", slots=2, launched_at=NOW - 60, used_at=NOW - 30)


def a_claim(node_id: str = "0000000009", **more: Any) -> Claim:
    return Claim(node_id=NodeId(node_id), label="slot", metadata={"nodepool_node_id": node_id}, **more)


def a_request(state: RequestState = RequestState.PENDING) -> NodeRequest:
    return NodeRequest(id=RequestId("100-0000000001"), state=state, node_types=("backing",))


class OneNode:
    """Leases of which each call does what the name says, at once; *log* has the changes."""

    def __init__(self, claims: int = 1) -> None:
        node = Node(id=NodeId("0000000007"), state=NodeState.IN_USE, type=("backing",), interface_ip="192.0.2.7")
        self.backing = Backing(a_lease(), node, {0: NodeId("0000000008")})
        self.all_claims = [a_claim(f"{9 + number:010d}") for number in range(claims)]
        self.log: list[Any] = []
        self.listeners: list[Callable[[], None]] = []
        self.fails: Exception | None = None
        self.is_open = False

    def _do(self, *what: Any) -> None:
        if self.fails is not None:
            raise self.fails
        self.log.append(what)

    async def warm(self) -> None:
        if self.fails is not None:
            raise self.fails

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def now(self) -> float:
        return NOW

    def backings(self) -> Sequence[Backing]:
        return [self.backing]

    def claims(self) -> Sequence[Claim]:
        return self.all_claims

    async def enter(self, claim: Claim) -> None:
        self._do("enter", claim)

    async def find(self, node_id: NodeId) -> Claim | None:
        return next((claim for claim in self.all_claims if claim.node_id == node_id), None)

    async def place(self, claim: Claim, backing: Backing, slot: int) -> Claim | None:
        self._do("place", claim, backing, slot)
        return None if slot in backing.taken else claim.changed(backing=backing.id, slot=slot)

    async def free(self, node_id: NodeId) -> None:
        self._do("free", node_id)

    async def obtain(
        self, backing_label: str, *, label: str, slots: int, progress: Callable[[NodeRequest], None]
    ) -> NodeId:
        progress(a_request())
        if backing_label == "endless":
            try:
                self._do("obtaining", label, slots)
                await asyncio.Event().wait()
            finally:
                self._do("withdrawn")
        if backing_label == "declined":
            raise RequestFailedError("100-0000000001", ["here-main"])
        return NodeId("0000000010")

    async def fail(self, backing: Backing) -> None:
        self._do("fail", backing)

    async def release(self, backing: Backing) -> bool:
        self._do("release", backing)
        return not backing.taken

    async def forget(self, backing: Backing) -> bool:
        self._do("forget", backing)
        return True

    async def adopt(self) -> None:
        self._do("adopt")


class OneNodeCluster:
    """The port's cluster, where only provider ``meta`` leases anything."""

    def __init__(self, leases: OneNode | None = None) -> None:
        self.node = leases or OneNode()

    @asynccontextmanager
    async def leases(self, provider: str) -> AsyncIterator[Leases]:
        assert provider == "meta"
        if isinstance(self.node.fails, StoreUnavailableError):
            raise self.node.fails
        self.node.is_open = True
        try:
            yield self.node
        finally:
            self.node.is_open = False


# -- the golden transcript: here the driver begins --------------------------------------------------------------------

_CLAIM = c.claim_info(a_claim()).model_dump()
_BACKING = c.backing_info(OneNode().backing).model_dump()
SCRIPT: Sequence[tuple[str, Json]] = [
    (c.STATE.name, {}),
    (c.LEASES.name, {"deadline_s": 1e8}),
    (c.STATE.name, {}),
    (c.STATE.name, {"since": 1}),
    (c.ENTER.name, {"claim": _CLAIM}),
    (c.FIND.name, {"node_id": "0000000009"}),
    (c.FIND.name, {"node_id": "0000000001"}),
    (c.PLACE.name, {"claim": _CLAIM, "backing": _BACKING, "slot": 1}),
    (c.PLACE.name, {"claim": _CLAIM, "backing": _BACKING, "slot": 0}),
    (c.FREE.name, {"node_id": "0000000009"}),
    (c.OBTAIN.name, {"backing_label": "backing", "label": "slot", "slots": 2}),
    (c.OBTAIN.name, {"backing_label": "declined", "label": "slot", "slots": 2}),
    (c.FAIL.name, {"backing": _BACKING}),
    (c.RELEASE.name, {"backing": _BACKING}),
    (c.FORGET.name, {"backing": _BACKING}),
    (c.ADOPT.name, {}),
    (c.LEASES.name, {}),
    ("cluster.weather", {}),
    (CANCEL, {"id": 2}),
    (c.STATE.name, {}),
]
ANSWERS = {c.OBTAIN.name: 2}
"""Lines that a call is answered with, where it is not one."""


async def record() -> list[str]:
    """The transcript as it is with this tree: ``< `` the driver's, ``> `` the launcher's."""
    ours, theirs = socket.socketpair()
    server = ClusterServer("meta", OneNodeCluster())
    peer = Peer(*await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE), answer=server.answer)
    server.open(peer.note)
    running = asyncio.ensure_future(peer.run())
    reader, writer = await asyncio.open_unix_connection(sock=theirs, limit=MAX_LINE)
    lines = []
    for number, (method, params) in enumerate(SCRIPT, 1):
        asked = {**Call(deadline_s=60.0).model_dump(), **params} if method != CANCEL else params
        message = {"jsonrpc": "2.0", **({"id": number} if method != CANCEL else {}), "method": method, "params": asked}
        lines.append("< " + json.dumps(message))
        writer.write(json.dumps(message).encode() + b"\n")
        answers = [await reader.readline() for _ in range(ANSWERS.get(method, 1))]
        lines += ["> " + json.dumps(json.loads(answer)) for answer in answers]
    writer.close()
    await running
    await writer.wait_closed()
    return lines
