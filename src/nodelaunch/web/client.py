"""Requests nodes over a launcher's HTTP, for programs that can't reach its store.

    async with HttpNodeClient("https://launcher.example.org", token_file="token") as client:
        async with client.nodes(["debian-12"]) as nodes:
            ...  # nodes[0].interface_ip, nodes[0].host_keys

The client has the methods of `NodeClient`, with the same meaning. It renews requests and their nodes in the background.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import msgspec

from nodelaunch.client.nodes import CancelWhenLost, Progress, RequestOptions, in_time
from nodelaunch.engine.reporting.explainrpc import in_a_line
from nodelaunch.errors import NodelaunchError, RecordGoneError, RequestFailedError
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import REQUEST_FINAL, NodeState, RequestState
from nodelaunch.web.messages import NodeShown, RequestExplained, RequestShown

if TYPE_CHECKING:
    import httpx

PREFIX = "/api/v1"
TTL_S = 60.0
"""Time that the launcher keeps this program's requests and nodes without a renewal."""
WAIT_S = 30.0
"""Time that one request waits for a change."""
ANSWER_S = 20.0
"""Deadline of any other answer, retries included."""
WHY_S = 2.0
"""Deadline of the answer why a request waits."""
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""The first and the longest pause before a retry."""
RETRIED = frozenset({408, 429, 502, 503, 504})
"""Status codes after which a retry may succeed."""

UNREACHABLE = 0
"""The status if there was no answer."""
ENDED = frozenset({404, 410})
"""Status codes after which a request can't be renewed."""

T = TypeVar("T")


class HttpError(NodelaunchError):
    """The launcher refused a request over HTTP; ``name`` is the name of the problem, ``status`` the HTTP status."""

    def __init__(self, status: int, name: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.name = name

    @property
    def is_passing(self) -> bool:
        """Return True if a retry may succeed."""
        return self.status in RETRIED or self.status == UNREACHABLE


class HttpRequestHandle:
    """An open request of this client."""

    def __init__(self, client: HttpNodeClient, shown: RequestShown) -> None:
        self.request: NodeRequest = _record(shown)
        """The request as last received."""
        self.nodes: list[Node] = []
        self.lost: asyncio.Event = asyncio.Event()
        """Set when the launcher no longer knows the request, or could not be reached for the request's lifetime."""
        self.is_over: bool = False
        """True if this client has ended the request."""
        self._client = client
        self._why: tuple[str, ...] = ()
        self._version = shown.version
        self._ttl_s = shown.ttl_s
        self._listeners: list[Callable[[], None]] = []

    @property
    def id(self) -> RequestId:
        return self.request.id

    async def finished(self, progress: Progress | None = None, *, timeout_s: float | None = None) -> NodeRequest:
        """Wait until the request is fulfilled or failed; call *progress* at each change.

        Raises: RecordGoneError if the request is lost; NodesNotThereError after *timeout_s*, with its reasons;
        HttpError.
        """
        return await in_time(self, self._finished(progress), timeout_s)

    async def _finished(self, progress: Progress | None) -> NodeRequest:
        if progress is not None:
            progress(self.request)
        while self.request.state not in REQUEST_FINAL:
            shown = await self._news()
            if shown.version != self._version:
                self._version, self.request = shown.version, _record(shown)
                self.nodes = [_node(each) for each in shown.nodes]
                self._why = _lines(shown)
                if progress is not None:
                    progress(self.request)
        return self.request

    async def why(self) -> tuple[str, ...]:
        """Return the reasons of the launcher's pools, a line each; without an answer, the last known reasons."""
        with suppress(HttpError):
            self._why = _lines(await self._client.ask("GET", f"/requests/{self.id}", RequestExplained, within_s=WHY_S))
        return self._why

    async def _news(self) -> RequestExplained:
        """Return the request after its next change, or after `WAIT_S` without a change."""
        query = {"wait_s": WAIT_S, "version": self._version}
        while not self.lost.is_set():
            try:
                return await self._client.ask("GET", f"/requests/{self.id}", RequestExplained, query=query)
            except HttpError as error:
                if error.status in ENDED:
                    self.lose()
                elif not error.is_passing:
                    raise
        raise RecordGoneError(paths.request(self.id), "the launcher no longer knows the request, or can't be reached")

    async def cancel(self, *, within_s: float | None = None) -> None:
        """Withdraw the request and return its nodes, in any state; done even if the caller is cancelled meanwhile.

        Raises: HttpError if the launcher did not answer *within_s*; the launcher then takes the nodes back by itself.
        """
        self.is_over = True
        await self._client.release(self.id, within_s=within_s)

    def on_lost(self, listener: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        if self.lost.is_set():
            asyncio.get_running_loop().call_soon(listener)
        return lambda: self._listeners.remove(listener)

    def lose(self) -> None:
        if self.lost.is_set() or self.is_over:
            return
        self.lost.set()
        for listener in list(self._listeners):
            listener()

    async def keep_alive(self) -> None:
        """Renew the request until it ends."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._ttl_s
        while not (self.is_over or self.lost.is_set()):
            await asyncio.sleep(self._ttl_s / 3)
            at = loop.time()
            try:
                async with asyncio.timeout_at(until):
                    await self._renew()
                until = at + self._ttl_s
            except (TimeoutError, HttpError):
                self.lose()

    async def _renew(self) -> None:
        """Renew the request once, with retries. Raises: HttpError if the request has ended."""
        while not self.is_over:
            try:
                await self._client.ask("POST", f"/requests/{self.id}/renew", RequestShown, body={})
                return
            except HttpError as error:
                if error.status in ENDED:
                    raise
                await asyncio.sleep(PAUSE_S)


class HttpNodeClient:
    """A client of a launcher's HTTP at *url*. Use it as an async context manager."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        requestor: str | None = None,
        ttl_s: float = TTL_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """*token*, or *token_file* with the token as its first line, is needed. *ttl_s*: the time after which the
        launcher takes the nodes back if this program does not renew them. *transport*: for httpx, instead of its own.

        Raises: NodelaunchError if the file can't be read, or *url* is not an HTTP address.
        """
        import httpx  # takes long to import, and most programs use the store

        self.requestor: str = requestor or f"nodelaunch-client:{uuid.uuid4().hex}"
        """The name in requests and nodes that identifies this client."""
        if (token is None) == (token_file is None):
            raise ValueError("give one of token and token_file")
        self._ttl_s = ttl_s
        headers = {"Authorization": f"Bearer {token or _first_line(token_file)}"}
        try:
            parsed = httpx.URL(url.rstrip("/") + PREFIX)
        except httpx.InvalidURL as error:
            raise NodelaunchError(f"{url}: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise NodelaunchError(
                f"{url}: the launcher's address is expected, such as http://launcher.example.org:8005"
            )
        self._http = httpx.AsyncClient(base_url=parsed, headers=headers, transport=transport)
        self.trouble: HttpError | None = None
        """Why the last call to the launcher failed; None if it was answered."""
        self._group = asyncio.TaskGroup()
        self._stack = AsyncExitStack()
        self._keepers: set[asyncio.Task[None]] = set()
        self._handles: dict[RequestId, HttpRequestHandle] = {}

    def __repr__(self) -> str:
        return f"HttpNodeClient({str(self._http.base_url)!r})"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._http)
            await stack.enter_async_context(self._group)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        for handle in list(self._handles.values()):
            with suppress(HttpError):
                await handle.cancel()
        await self._stack.aclose()

    # -- asking -----------------------------------------------------------------------------------------------------

    async def submit(
        self, labels: Sequence[str], *, ttl_s: float | None = None, **options: Unpack[RequestOptions]
    ) -> HttpRequestHandle:
        """Request one node for each of *labels*, in this order. The request lasts while this program renews it.

        Raises: HttpError.
        """
        wanted = {"requestor": self.requestor, **{name: value for name, value in options.items() if value is not None}}
        body = {"labels": list(labels), "ttl_s": self._ttl_s if ttl_s is None else ttl_s, **wanted}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        shown = await self.ask("POST", "/requests", RequestShown, body=body, headers=headers)
        handle = self._handles[RequestId(shown.id)] = HttpRequestHandle(self, shown)
        keeper = self._group.create_task(handle.keep_alive(), name=f"renew {shown.id}")
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)
        return handle

    async def release(self, request_id: RequestId, *, within_s: float | None = None) -> None:
        """Return the nodes of a request; done even if the caller is cancelled meanwhile. Raises: HttpError."""

        async def delete() -> None:
            try:
                await self.ask("DELETE", f"/requests/{request_id}", RequestShown, within_s=within_s)
            except HttpError as error:
                if error.status != 404:
                    raise
            finally:
                self._handles.pop(request_id, None)

        deleting = asyncio.ensure_future(delete())
        try:
            await asyncio.shield(deleting)
        except asyncio.CancelledError:
            await asyncio.wait([deleting], timeout=ANSWER_S)
            raise

    async def ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        within_s: float | None = None,
    ) -> T:
        """Return the launcher's answer; retry for *within_s*, by default `ANSWER_S`, if it can't be reached.

        Raises: HttpError.
        """
        import httpx

        loop = asyncio.get_running_loop()
        until, pause_s = loop.time() + (ANSWER_S if within_s is None else within_s), PAUSE_S
        wait_s = float((query or {}).get("wait_s", 0))
        while True:
            timeout_s = wait_s + (ANSWER_S if within_s is None else max(PAUSE_S, until - loop.time()))
            try:
                reply = await self._http.request(
                    method, path, json=body, params=query, headers=headers, timeout=timeout_s
                )
                if reply.is_success:
                    answer = msgspec.json.decode(reply.content, type=kind)
                    self.trouble = None
                    return answer
                error = _refusal(reply)
            except (httpx.TransportError, msgspec.DecodeError) as trouble:
                error = HttpError(
                    UNREACHABLE, "unreachable", f"{self._http.base_url}: {str(trouble) or type(trouble).__name__}"
                )
            self.trouble = error if error.is_passing else None
            if not error.is_passing or loop.time() + pause_s > until:
                raise error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    # -- using ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def nodes(
        self, labels: Sequence[str], *, timeout_s: float | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[list[Node]]:
        """Request nodes of *labels*, in use inside the block and returned at its end; *options* as for `submit`.

        Raises: RequestFailedError if no pool can serve the request, and NodesNotThereError if it is not fulfilled
        within *timeout_s*, both with each pool's reasons; NodesLostError as `hold`; HttpError.
        """
        handle = await self.submit(labels, **options)
        try:
            request = await handle.finished(timeout_s=timeout_s)
            if request.state is RequestState.FAILED:
                raise RequestFailedError(request.id, request.declined_by, await handle.why())
            async with self.hold(request) as nodes:
                yield nodes
        finally:
            if not handle.is_over:
                with suppress(HttpError):
                    await handle.cancel()

    @asynccontextmanager
    async def hold(self, request: NodeRequest) -> AsyncIterator[list[Node]]:
        """Return the nodes of a fulfilled *request* of this client, in use inside the block and returned after it.

        If the launcher takes them back, or could not be reached for their lifetime, the block is cancelled, as by
        `asyncio.timeout`, and NodesLostError is raised.
        """
        handle = self._handles.get(request.id)
        if handle is None:
            raise RecordGoneError(paths.request(request.id), "the request was released")
        try:
            async with CancelWhenLost([(node.id, handle) for node in handle.nodes]):
                yield handle.nodes
        finally:
            with suppress(HttpError):  # the launcher takes nodes back that are not renewed
                await handle.cancel()


def _lines(shown: RequestExplained) -> tuple[str, ...]:
    """Return the reasons of each pool that has reasons."""
    return tuple(line for pool in shown.pools if (line := in_a_line(pool)))


def _first_line(path: str | os.PathLike[str] | None) -> str:
    assert path is not None  # noqa: S101
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise NodelaunchError(f"{path}: the token can't be read: {reason}") from None
    lines = [line.strip() for line in text.splitlines()]
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens or not tokens[0].isascii():
        raise NodelaunchError(f"{path}: there is no token in it")
    return tokens[0]


def _refusal(reply: httpx.Response) -> HttpError:
    """Return the error for an unsuccessful answer."""
    try:
        said = reply.json()
        name = str(said["type"]).rpartition(":")[2]
        text = ": ".join(str(said[key]) for key in ("title", "detail") if said.get(key))
    except (ValueError, KeyError, TypeError, AttributeError):
        name, text = "http", reply.reason_phrase
    return HttpError(reply.status_code, name, f"{reply.url.copy_with(query=None)}: {text} (HTTP {reply.status_code})")


def _record(shown: RequestShown) -> NodeRequest:
    """Return the request as a record. Raises: RecordGoneError if it has ended, but not failed."""
    try:
        state = RequestState(shown.state)
    except ValueError:
        what = f"the request is {shown.state}" + (f": {shown.detail}" if shown.detail else "")
        raise RecordGoneError(paths.request(RequestId(shown.id)), what) from None
    return NodeRequest(
        id=RequestId(shown.id),
        state=state,
        node_types=tuple(shown.labels),
        nodes=tuple(NodeId(node.id) for node in shown.nodes),
        declined_by=tuple(shown.declined_by),
        requestor=shown.requestor,
        provider=shown.provider,
        tenant_name=shown.tenant,
        relative_priority=shown.relative_priority,
    )


def _node(shown: NodeShown) -> Node:
    """Return the node as a record."""
    return Node(
        id=NodeId(shown.id),
        state=NodeState(shown.state),
        type=tuple(shown.label),
        provider=shown.provider,
        pool=shown.pool,
        interface_ip=shown.host,
        connection_port=shown.port,
        username=shown.username,
        connection_type=shown.connection_type,
        shell_type=shown.shell_type,
        python_path=shown.python_path,
        host_keys=tuple(shown.host_keys),
        public_ipv4=shown.public_ipv4,
        private_ipv4=shown.private_ipv4,
        public_ipv6=shown.public_ipv6,
        hostname=shown.hostname,
        az=shown.az,
        attributes=shown.attributes,
        node_properties=shown.node_properties,
        comment=shown.comment,
        hold_expiration=shown.hold_expiration,
    )
