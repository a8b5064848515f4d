"""The cluster for a driver in a separate process: the port of `protocol/cluster.py` by calls to the launcher.

Reads without a wait come from a copy, and each `warm` synchronises the copy. The launcher makes the changes, and they
fail if the copy was stale. driverhost/process/clusterserver.py is the other end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from nodelaunch.driverhost.wire import cluster as c
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.peer import METHOD_NOT_FOUND, ConnectionEndedError, Json, Peer, RpcError
from nodelaunch.errors import RecordInvalidError, StoreError, StoreUnavailableError
from nodelaunch.protocol.cluster import Backing, Leases
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Claim, NodeRequest

ResultT = TypeVar("ResultT", bound=m.Message)

CALL_S: Final = 60.0
FOREVER_S: Final = 1e8
"""Deadline of calls that last until they are cancelled."""


class RemoteCluster:
    """The cluster of the launcher at the other end of ``peer``. Set ``peer`` before the first use."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self._leases: RemoteLeases | None = None

    def on_note(self, method: str, params: Json) -> None:
        """Process a notification of the launcher; notifications that do not concern the cluster are ignored."""
        if self._leases is not None and method in c.CLUSTER_NOTES:
            with suppress(ValidationError, RecordInvalidError):
                self._leases.on_note(method, params)

    def leases(self, provider: str) -> AbstractAsyncContextManager[Leases]:  # noqa: ARG002  the launcher knows ours
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Leases]:
        if self.peer is None:
            raise StoreUnavailableError(detail="there is no launcher to ask")
        leases = RemoteLeases(self.peer)
        self._leases = leases
        holding = asyncio.ensure_future(leases.hold())
        opened = asyncio.ensure_future(leases.opened.wait())
        try:
            await asyncio.wait({holding, opened}, return_when=asyncio.FIRST_COMPLETED)
            if not opened.done():
                holding.result()
                raise StoreUnavailableError(detail="the launcher closed the leases")
            yield leases
        finally:
            opened.cancel()
            holding.cancel()
            await asyncio.gather(holding, opened, return_exceptions=True)
            self._leases = None


class RemoteLeases:
    """The leases of one provider. Open with `RemoteCluster.leases`."""

    def __init__(self, peer: Peer) -> None:
        self.opened: asyncio.Event = asyncio.Event()
        self._peer = peer
        self._listeners: list[Callable[[], None]] = []
        self._orders: dict[int, Callable[[NodeRequest], None]] = {}
        """Callbacks for new versions of the request of each `obtain` under way, by the call's id."""
        self._reading = asyncio.Lock()
        self._version: int | None = None
        self._backings: Sequence[Backing] = ()
        self._claims: Sequence[Claim] = ()
        self._ahead_s = 0.0
        """Difference between the clock of the leases and the loop's clock."""

    def on_note(self, method: str, params: Json) -> None:
        """Process a notification. Raises: ValidationError, RecordInvalidError."""
        if method == c.CHANGED:
            self.opened.set()
            for listener in tuple(self._listeners):
                listener()
        elif method == c.ORDER:
            note = c.OrderNote.model_validate(params)
            if (told := self._orders.get(note.call)) is not None:
                told(c.request_from(note))

    async def _ask(
        self, method: m.Method[Any, ResultT], params: m.Message, *, timeout_s: float = CALL_S,
        on_id: Callable[[int], None] = lambda _number: None,
    ) -> ResultT:  # fmt: skip
        """Make one call. Raises: StoreError, RequestFailedError."""
        try:
            answer = await self._peer.call(
                method.name, params.model_dump(mode="json"), timeout_s=timeout_s, on_id=on_id,
                on_given_up=(lambda _outcome: None) if method.makes or method is c.LEASES else None,
            )  # fmt: skip
            return method.result.model_validate(answer)
        except RpcError as error:
            if error.code == METHOD_NOT_FOUND:
                raise StoreUnavailableError(detail="the launcher has no cluster for this driver") from None
            raise c.error_from(error) from None
        except ConnectionEndedError as error:
            raise StoreUnavailableError(detail=f"the launcher is gone: {error}") from None
        except TimeoutError:
            raise StoreUnavailableError(detail=f"{method.name} was not answered in time") from None
        except ValidationError as error:
            raise StoreError(detail=f"{method.name}: {error.error_count()} parts of the answer are wrong") from None

    async def hold(self) -> None:
        """Keep the leases open in the launcher until cancelled. Raises: StoreError."""
        await self._ask(c.LEASES, m.Call(deadline_s=FOREVER_S), timeout_s=FOREVER_S)

    # -- reading ----------------------------------------------------------------------------------------------------

    async def warm(self) -> None:
        async with self._reading:
            page = await self._ask(c.STATE, c.StateParams(since=self._version, deadline_s=CALL_S))
            self._ahead_s = page.now - asyncio.get_running_loop().time()
            if page.is_unchanged:
                return
            version, backings, claims = page.version, list(page.backings), list(page.claims)
            while page.next_cursor is not None:
                page = await self._ask(c.STATE, c.StateParams(cursor=page.next_cursor, deadline_s=CALL_S))
                backings += page.backings
                claims += page.claims
            self._backings = [c.backing_from(each) for each in backings]
            self._claims = [c.claim_from(each) for each in claims]
            self._version = version

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self._ahead_s

    def backings(self) -> Sequence[Backing]:
        return self._backings

    def claims(self) -> Sequence[Claim]:
        return self._claims

    # -- changing ---------------------------------------------------------------------------------------------------

    async def enter(self, claim: Claim) -> None:
        await self._ask(c.ENTER, c.ClaimParams(claim=c.claim_info(claim), deadline_s=CALL_S))

    async def find(self, node_id: NodeId) -> Claim | None:
        found = await self._ask(c.FIND, c.ClaimIdParams(node_id=node_id, deadline_s=CALL_S))
        return None if found.claim is None else c.claim_from(found.claim)

    async def place(self, claim: Claim, backing: Backing, slot: int) -> Claim | None:
        params = c.PlaceParams(
            claim=c.claim_info(claim), backing=c.backing_info(backing), slot=slot, deadline_s=CALL_S
        )  # fmt: skip
        placed = await self._ask(c.PLACE, params)
        return None if placed.claim is None else c.claim_from(placed.claim)

    async def free(self, node_id: NodeId) -> None:
        await self._ask(c.FREE, c.ClaimIdParams(node_id=node_id, deadline_s=CALL_S))

    async def obtain(
        self, backing_label: str, *, label: str, slots: int, progress: Callable[[NodeRequest], None]
    ) -> NodeId:
        numbers: list[int] = []

        def under(number: int) -> None:
            numbers.append(number)
            self._orders[number] = progress

        params = c.ObtainParams(backing_label=backing_label, label=label, slots=slots, deadline_s=FOREVER_S)
        try:
            return NodeId((await self._ask(c.OBTAIN, params, timeout_s=FOREVER_S, on_id=under)).node_id)
        finally:
            for number in numbers:
                del self._orders[number]

    async def fail(self, backing: Backing) -> None:
        await self._ask(c.FAIL, self._about(backing))

    async def release(self, backing: Backing) -> bool:
        return (await self._ask(c.RELEASE, self._about(backing))).is_done

    async def forget(self, backing: Backing) -> bool:
        return (await self._ask(c.FORGET, self._about(backing))).is_done

    async def adopt(self) -> None:
        await self._ask(c.ADOPT, m.Call(deadline_s=CALL_S))

    def _about(self, backing: Backing) -> c.BackingParams:
        return c.BackingParams(backing=c.backing_info(backing), deadline_s=CALL_S)
