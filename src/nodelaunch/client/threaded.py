"""Nodes for code in any thread, with or without an event loop: a client in its own loop and thread.

pytest_plugin.py uses it for tests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Self, TypeVar

from nodelaunch.client.nodes import NodeClient, RequestOptions
from nodelaunch.engine.reporting.explainrpc import why
from nodelaunch.errors import RequestFailedError, StoreError
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import RequestState

T = TypeVar("T")


class ClientThread:
    """A thread with a client. Use it as a context manager: the thread lives inside the block."""

    def __init__(self, open_client: Callable[[], AbstractAsyncContextManager[NodeClient]]) -> None:
        """*open_client* is called, entered and left in the thread."""
        self._open_client = open_client
        self._ready: Future[NodeClient] = Future()
        self._ended: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="nodelaunch client", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread. Raises: the errors of *open_client*."""
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the thread. Raises: the errors of leaving *open_client*."""
        assert self._loop is not None  # noqa: S101
        assert self._stop is not None  # noqa: S101
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._ended.result()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
            self._ended.set_result(None)
        except BaseException as error:  # noqa: BLE001  the caller's thread raises it
            (self._ended if self._ready.done() else self._ready).set_exception(error)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._open_client() as client:
            self._ready.set_result(client)
            await self._stop.wait()

    @property
    def client(self) -> NodeClient:
        """The client, for use in `call` only."""
        return self._ready.result()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run *coroutine* in the thread."""
        assert self._loop is not None  # noqa: S101
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


class Loan:
    """Nodes that are returned together."""

    def __init__(self, thread: ClientThread) -> None:
        self._thread = thread
        self._holders: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()  # belongs to the thread's loop from the first wait on

    def take(self, labels: Sequence[str], options: RequestOptions, timeout_s: float) -> Future[list[Node]]:
        """Request nodes of *labels*, in use until `give_back`.

        The future may raise: NodesNotThereError after *timeout_s*; RequestFailedError; StoreError.
        """
        return self._thread.call(self._take(labels, options, timeout_s))

    def give_back(self) -> None:
        """Return all nodes. Raises: NodesLostError; StoreError."""
        self._thread.call(self._give_back()).result()

    async def _take(self, labels: Sequence[str], options: RequestOptions, timeout_s: float) -> list[Node]:
        taken: asyncio.Future[list[Node]] = asyncio.get_running_loop().create_future()
        holder = asyncio.create_task(self._hold(labels, options, timeout_s, taken))
        self._holders.append(holder)
        try:
            waiting: set[asyncio.Future[Any]] = {holder, taken}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            holder.cancel()
            raise
        if not taken.done():
            self._holders.remove(holder)
            holder.result()
        return taken.result()

    async def _hold(
        self, labels: Sequence[str], options: RequestOptions, timeout_s: float, taken: asyncio.Future[list[Node]]
    ) -> None:
        client = self._thread.client
        handle = await client.submit(labels, **options)
        try:
            request = await handle.finished(timeout_s=timeout_s)
            if request.state is RequestState.FAILED:
                raise RequestFailedError(request.id, request.declined_by, await why(client.store, request.id))
            async with client.hold(request) as nodes:
                taken.set_result(nodes)
                await self._over.wait()
        finally:
            if not taken.done():
                with suppress(StoreError):
                    await handle.cancel()

    async def _give_back(self) -> None:
        self._over.set()
        outcomes = await asyncio.gather(*self._holders, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
