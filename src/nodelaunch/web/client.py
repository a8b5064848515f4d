"""Asks for nodes over a launcher's HTTP, for programs that can't reach its store.

    async with HttpNodeClient("https://launcher.example.org", token_file="token") as client:
        async with client.nodes(["debian-12"]) as nodes:
            ...  # nodes[0].interface_ip, nodes[0].host_keys

It has the methods of `NodeClient`, with the same meaning. A request, and then its nodes, are renewed in the background.
What does *not* belong here: what the launcher does with it (desk.py).
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import httpx
import msgspec

from nodelaunch.client.nodes import CancelWhenLost, Progress, RequestOptions, in_time
from nodelaunch.engine.reporting.questions import in_a_line
from nodelaunch.errors import NodelaunchError, RecordGoneError, RequestFailedError
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import REQUEST_FINAL, NodeState, RequestState
from nodelaunch.web.messages import NodeShown, RequestExplained, RequestShown

PREFIX = "/api/v1"
TTL_S = 60.0
"""How long the launcher keeps what this program has, if nothing is heard of it any more."""
WAIT_S = 30.0
"""How long one question for news is left open."""
ANSWER_S = 20.0
"""How long any other answer may take."""
WHY_S = 2.0
"""How long the answer to why a request waits may take."""
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""Before a question that was not answered is asked again: at first, and at most."""
RETRIED = frozenset({408, 429, 502, 503, 504})
"""Answers after which the same may go well."""

UNREACHABLE = 0
"""In place of a status, where there was no answer."""
ENDED = frozenset({404, 410})
"""Answers after which there is nothing to be renewed."""

T = TypeVar("T")


class HttpError(NodelaunchError):
    """The launcher did not do what it was asked over HTTP; ``name`` says which problem, ``status`` is HTTP's."""

    def __init__(self, status: int, name: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.name = name

    @property
    def is_passing(self) -> bool:
        """Whether the same may go well later."""
        return self.status in RETRIED or self.status == UNREACHABLE


class HttpRequestHandle:
    """One request of ours that is under way."""

    def __init__(self, client: HttpNodeClient, shown: RequestShown) -> None:
        self.request: NodeRequest = _record(shown)
        """As last seen."""
        self.nodes: list[Node] = []
        self.lost: asyncio.Event = asyncio.Event()
        """Set when the launcher does not know it any more, or could not be reached for as long as it lasts."""
        self.is_over: bool = False
        """Whether we ended it."""
        self._client = client
        self._why: tuple[str, ...] = ()
        self._version = shown.version
        self._ttl_s = shown.ttl_s
        self._listeners: list[Callable[[], None]] = []

    @property
    def id(self) -> RequestId:
        return self.request.id

    async def finished(self, progress: Progress | None = None, *, timeout_s: float | None = None) -> NodeRequest:
        """Wait until it is fulfilled or failed; *progress* is told of every change on the way.

        Raises: RecordGoneError when it is lost; NodesNotThereError after *timeout_s*, with why it waits; HttpError.
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
        """What the launcher's pools say of it now, a line each; or else what they said last."""
        with suppress(HttpError):
            self._why = _lines(await self._client.ask("GET", f"/requests/{self.id}", RequestExplained, within_s=WHY_S))
        return self._why

    async def _news(self) -> RequestExplained:
        """How it stands when something has changed, or nothing for a while."""
        query = {"wait_s": WAIT_S, "version": self._version}
        while not self.lost.is_set():
            try:
                return await self._client.ask("GET", f"/requests/{self.id}", RequestExplained, query=query)
            except HttpError as error:
                if error.status in ENDED:
                    self.lose()
                elif not error.is_passing:
                    raise
        raise RecordGoneError(paths.request(self.id), "the launcher does not know it any more, or can't be reached")

    async def cancel(self, *, within_s: float | None = None) -> None:
        """Give back what it has, in whatever state it is; done even if the caller is cancelled meanwhile.

        Raises: HttpError where the launcher did not answer *within_s*. It takes back by itself what is not renewed.
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
        """Renew it until it ends."""
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
        """Renew it once, however often that is to be tried. Raises: HttpError where it has ended."""
        while not self.is_over:
            try:
                await self._client.ask("POST", f"/requests/{self.id}/renew", RequestShown, body={})
                return
            except HttpError as error:
                if error.status in ENDED:
                    raise
                await asyncio.sleep(PAUSE_S)


class HttpNodeClient:
    """Use as an async context manager. *url* is where the launcher's HTTP is."""

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
        """Give *token*, or a file that has it as its first line. *ttl_s*: after how long without a sign of this
        program the launcher takes everything back. *transport*: httpx's, where its own will not do.

        Raises: NodelaunchError where the file can't be read, or *url* is none of HTTP.
        """
        self.requestor: str = requestor or f"nodelaunch-client:{uuid.uuid4().hex}"
        """Written into requests and nodes; tells ours from others'."""
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
        """Why the last try to ask the launcher something came to nothing; None where it answered."""
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
        """Ask for one node of each of *labels*, in this order. The request lasts while this program renews it.

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
        """Give back what a request has; done even if the caller is cancelled meanwhile. Raises: HttpError."""

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
        """The launcher's answer; asked again for `ANSWER_S` where it can't be reached, or else it answers *within_s*.

        Raises: HttpError.
        """
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
        """Nodes of *labels*, in use by us inside the block and given back at its end; *options* as for `submit`.

        Raises: RequestFailedError when no pool can serve the request, and NodesNotThereError when none has *timeout_s*
        after it was made, both with what each pool says; NodesLostError as `hold`; HttpError.
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
        """The nodes of a fulfilled *request* of ours, in use inside the block and given back after it.

        When the launcher takes them back, or could not be reached for as long as they last, the block is cancelled, as
        by `asyncio.timeout`, and NodesLostError raised.
        """
        handle = self._handles.get(request.id)
        if handle is None:
            raise RecordGoneError(paths.request(request.id), "the request was given back")
        try:
            async with CancelWhenLost([(node.id, handle) for node in handle.nodes]):
                yield handle.nodes
        finally:
            with suppress(HttpError):  # what is not given back is taken back soon
                await handle.cancel()


def _lines(shown: RequestExplained) -> tuple[str, ...]:
    """What each pool says, where it says something."""
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
    """What an answer that is no success says."""
    try:
        said = reply.json()
        name = str(said["type"]).rpartition(":")[2]
        text = ": ".join(str(said[key]) for key in ("title", "detail") if said.get(key))
    except (ValueError, KeyError, TypeError, AttributeError):
        name, text = "http", reply.reason_phrase
    return HttpError(reply.status_code, name, f"{reply.url.copy_with(query=None)}: {text} (HTTP {reply.status_code})")


def _record(shown: RequestShown) -> NodeRequest:
    """As the store has it. Raises: RecordGoneError where it has ended otherwise than by failing."""
    try:
        state = RequestState(shown.state)
    except ValueError:
        what = f"it is {shown.state}" + (f": {shown.detail}" if shown.detail else "")
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
    """As the store has it."""
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
