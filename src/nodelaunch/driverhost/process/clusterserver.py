"""Answers the calls of a driver process to the cluster, for the leases of its own provider only.

The call ``cluster.leases`` lasts as long as the leases are open, and all other calls depend on it. When it is cancelled
or the process ends, the driver's requests are withdrawn, as for a driver inside the launcher.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from nodelaunch.driverhost.wire import cluster as c
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.peer import INVALID_PARAMS, METHOD_NOT_FOUND, Json, RpcError
from nodelaunch.errors import NodelaunchError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.cluster import Cluster, Leases
from nodelaunch.protocol.paths import NodeId

log: Logger = get_logger(__name__)

PAGE_BYTES: Final = 256 << 10
"""Size of a page of the state, as JSON; a page ends with the part that reaches it."""

Note = Callable[[str, Json], None]


class ClusterServer:
    """The server for one process of *provider*'s driver. Refuses all calls before `open`."""

    def __init__(self, provider: str, cluster: Cluster | None) -> None:
        self._provider = provider
        self._cluster = cluster
        self._note: Note | None = None
        self._leases: Leases | None = None
        self._version = 0
        self._is_told = False
        """True if the driver was notified that its state is outdated."""
        self._pages: list[c.StateResult] = []
        self._answers: Mapping[str, Callable[[Any, int], Awaitable[m.Message]]] = {
            c.LEASES.name: self._open_leases,
            c.STATE.name: self._state,
            c.ENTER.name: self._enter,
            c.FIND.name: self._find,
            c.PLACE.name: self._place,
            c.FREE.name: self._free,
            c.OBTAIN.name: self._obtain,
            c.FAIL.name: self._fail,
            c.RELEASE.name: self._release,
            c.FORGET.name: self._forget,
            c.ADOPT.name: self._adopt,
        }

    def open(self, note: Note) -> None:
        """Accept calls from now on: the handshake is complete and the driver has the capability."""
        self._note = note

    async def answer(self, name: str, params: Json, number: int) -> Json:
        """Return the result of a driver's call. Raises: RpcError."""
        method = c.CLUSTER_METHODS.get(name)
        if method is None or self._note is None or self._cluster is None:
            raise RpcError(METHOD_NOT_FOUND, f"there is no method {name} here")
        try:
            asked = method.params.model_validate(params)
            async with asyncio.timeout(asked.deadline_s):
                return (await self._answers[name](asked, number)).model_dump(mode="json")
        except ValidationError as error:
            raise RpcError(INVALID_PARAMS, f"{name}: {error.error_count()} parameters are wrong") from None
        except NodelaunchError as error:
            raise c.refusal(error) from None
        except TimeoutError:
            raise c.refusal(StoreError(detail=f"{name} did not finish in time")) from None
        except Exception as error:
            log.exception("cluster_call_failed", provider=self._provider, method=name)
            raise c.refusal(StoreError(detail=f"{type(error).__name__}: {error}")) from None

    # -- knowing ----------------------------------------------------------------------------------------------------

    @property
    def _opened(self) -> Leases:
        if self._leases is None:
            raise StoreError(detail=f"{c.LEASES.name} comes first")
        return self._leases

    async def _open_leases(self, _params: m.Call, _number: int) -> m.Message:
        """Keep the leases open until the call is cancelled."""
        if self._leases is not None or self._cluster is None:
            raise StoreError(detail="the leases are open already")
        async with self._cluster.leases(self._provider) as leases:
            self._leases, self._is_told = leases, False
            stop = leases.subscribe(self._changed)
            try:
                self._changed()
                await asyncio.Event().wait()
            finally:
                self._leases = None
                stop()
        return m.Empty()

    def _changed(self) -> None:
        self._version += 1
        if not self._is_told and self._note is not None:
            self._is_told = True
            self._note(c.CHANGED, c.ChangedNote(version=self._version).model_dump())

    async def _state(self, params: c.StateParams, _number: int) -> c.StateResult:
        leases = self._opened
        if params.cursor is not None:
            page = int(params.cursor) if params.cursor.isdecimal() else 0
            if not 0 < page < len(self._pages):
                raise StoreError(detail="there is no such page; start again from the first page")
            return self._pages[page]
        await leases.warm()
        self._is_told = False
        version, now = self._version, leases.now()
        if params.since == version:
            return c.StateResult(version=version, now=now, is_unchanged=True)
        backings, claims = map(c.backing_info, leases.backings()), map(c.claim_info, leases.claims())
        parts: list[c.BackingInfo | c.ClaimInfo] = [*backings, *claims]
        self._pages = _paged(parts, version, now)
        return self._pages[0]

    # -- changing ---------------------------------------------------------------------------------------------------

    async def _enter(self, params: c.ClaimParams, _number: int) -> m.Message:
        await self._opened.enter(c.claim_from(params.claim))
        return m.Empty()

    async def _find(self, params: c.ClaimIdParams, _number: int) -> c.ClaimResult:
        found = await self._opened.find(NodeId(params.node_id))
        return c.ClaimResult(claim=None if found is None else c.claim_info(found))

    async def _place(self, params: c.PlaceParams, _number: int) -> c.ClaimResult:
        claim, backing = c.claim_from(params.claim), c.backing_from(params.backing)
        placed = await self._opened.place(claim, backing, params.slot)
        return c.ClaimResult(claim=None if placed is None else c.claim_info(placed))

    async def _free(self, params: c.ClaimIdParams, _number: int) -> m.Message:
        await self._opened.free(NodeId(params.node_id))
        return m.Empty()

    async def _obtain(self, params: c.ObtainParams, number: int) -> c.ObtainResult:
        def progress(request: Any) -> None:
            if self._note is not None:
                self._note(c.ORDER, c.order_note(number, request).model_dump())

        node_id = await self._opened.obtain(
            params.backing_label, label=params.label, slots=params.slots, progress=progress
        )
        return c.ObtainResult(node_id=node_id)

    async def _fail(self, params: c.BackingParams, _number: int) -> m.Message:
        await self._opened.fail(c.backing_from(params.backing))
        return m.Empty()

    async def _release(self, params: c.BackingParams, _number: int) -> c.DoneResult:
        return c.DoneResult(is_done=await self._opened.release(c.backing_from(params.backing)))

    async def _forget(self, params: c.BackingParams, _number: int) -> c.DoneResult:
        return c.DoneResult(is_done=await self._opened.forget(c.backing_from(params.backing)))

    async def _adopt(self, _params: m.Call, _number: int) -> m.Message:
        await self._opened.adopt()
        return m.Empty()


def _paged(parts: Sequence[c.BackingInfo | c.ClaimInfo], version: int, now: float) -> list[c.StateResult]:
    """Return at least one page, in the order of *parts*."""
    pages: list[list[c.BackingInfo | c.ClaimInfo]] = [[]]
    size = 0
    for part in parts:
        if size >= PAGE_BYTES:
            pages.append([])
            size = 0
        pages[-1].append(part)
        size += len(part.model_dump_json())
    return [
        c.StateResult(
            version=version,
            now=now,
            backings=tuple(part for part in page if isinstance(part, c.BackingInfo)),
            claims=tuple(part for part in page if isinstance(part, c.ClaimInfo)),
            next_cursor=str(number + 1) if number + 1 < len(pages) else None,
        )
        for number, page in enumerate(pages)
    ]
