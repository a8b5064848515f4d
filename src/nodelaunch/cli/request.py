"""``nodelaunch request LABEL...``: requests nodes as a CI system would, shows the progress, returns the nodes."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from nodelaunch.cli.common import client_store, say, say_json
from nodelaunch.cli.session import AsJson, CliSession, Given
from nodelaunch.client.nodes import NodeClient, RequestHandle, RequestOptions
from nodelaunch.connecting import CONNECT_TIMEOUT_S, trouble_of
from nodelaunch.errors import NodelaunchError, NodesNotThereError, RequestFailedError
from nodelaunch.protocol.paths import CLIENT_PRIORITY
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.web.client import HttpNodeClient, HttpRequestHandle

Handle = RequestHandle | HttpRequestHandle


def _no_blank(_type: object, labels: Sequence[str]) -> None:
    if any(not label.strip() for label in labels):
        raise ValueError("a label needs at least one character")


def _three_characters(_type: object, priority: str) -> None:
    if len(priority) != len(CLIENT_PRIORITY):
        raise ValueError(f"a priority needs three characters, such as {CLIENT_PRIORITY}")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class OverHttp:
    """Options for requests over HTTP."""

    url: Annotated[
        str | None,
        Parameter(
            env_var="NODELAUNCH_URL", help="Send the requests to the launcher at this URL over HTTP.", metavar="URL"
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        Parameter(env_var="NODELAUNCH_TOKEN_FILE", help="File with the token for --url.", metavar="FILE"),
    ] = None


LEAVE_S = 2.0
"""The time to withdraw requests after the timeout."""


class Wait:
    """The time that the command waits for its nodes, counted from its start."""

    def __init__(self, timeout_s: float | None) -> None:
        """*timeout_s*: None for no limit."""
        self.timeout_s = timeout_s
        self._until = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s

    def limit(self) -> asyncio.Timeout:
        """Return a context manager that raises TimeoutError when the time is over."""
        return asyncio.timeout_at(self._until)

    @property
    def is_over(self) -> bool:
        return self._until is not None and asyncio.get_running_loop().time() >= self._until

    @property
    def connect_s(self) -> float:
        """Return the seconds that the store may take for its first answer."""
        return CONNECT_TIMEOUT_S if self.timeout_s is None else min(self.timeout_s, CONNECT_TIMEOUT_S)


@asynccontextmanager
async def _client(session: CliSession, over_http: OverHttp, wait: Wait) -> AsyncIterator[NodeClient | HttpNodeClient]:
    if over_http.url is None:
        async with client_store(session, timeout_s=wait.connect_s) as store, NodeClient(store) as by_store:
            yield by_store
        return
    if over_http.token_file is None:
        raise NodelaunchError("--url needs --token-file FILE, or NODELAUNCH_TOKEN_FILE in the environment")
    async with HttpNodeClient(over_http.url, token_file=over_http.token_file) as by_http:
        yield by_http


async def request(
    labels: Annotated[
        list[str], Parameter(help="Labels of the nodes, in this order.", metavar="LABEL", validator=_no_blank)
    ],
    /,
    *,
    count: Annotated[
        int, Parameter(help="Number of equal requests to submit.", metavar="N", validator=Number(gte=1))
    ] = 1,
    hold: Annotated[float, Parameter(help="Time to keep the nodes.", metavar="SECONDS", validator=Number(gte=0))] = 0.0,
    timeout: Annotated[
        float | None,
        Parameter(
            help="Longest time to wait for the nodes, from the start of the command.",
            metavar="SECONDS",
            validator=Number(gt=0),
        ),
    ] = None,
    tenant: Annotated[str | None, Parameter(help="Tenant of the requests.", metavar="NAME")] = None,
    provider: Annotated[
        str | None, Parameter(help="Provider of the nodes, while it is available.", metavar="NAME")
    ] = None,
    priority: Annotated[
        str,
        Parameter(
            help="Priority, three digits; smaller numbers are served first.", metavar="NNN", validator=_three_characters
        ),
    ] = CLIENT_PRIORITY,
    over_http: OverHttp = OverHttp(),
    as_json: AsJson = False,
    session: Given,
) -> int:
    """Request nodes, print them, keep them, return them.

    Nodes are printed as soon as they are ready; with --json, when all requests have ended, unfulfilled requests with
    their reasons. The command reaches the launcher through the store, or with --url over HTTP. Exit code: 0 all
    requests were fulfilled and no node was lost; 1 otherwise.
    """
    _end_on_signals()
    wait, outcomes = Wait(timeout), _Outcomes(count, session, as_json=as_json)
    options: RequestOptions = {"tenant": tenant, "provider": provider, "priority": priority}
    results: Sequence[bool] = ()
    leaving = asyncio.timeout(None)
    try:
        async with leaving, _client(session, over_http, wait) as client:
            handles: list[Handle] = []
            try:
                await _ask(client, handles, labels, options, outcomes, count=count, wait=wait)
                users = [_use(client, handle, labels, outcomes, wait=wait, hold_s=hold) for handle in handles]
                results = await asyncio.gather(*users)
            finally:
                if wait.is_over:
                    leaving.reschedule(asyncio.get_running_loop().time() + LEAVE_S)
                await asyncio.gather(*(_give_back(handle, wait) for handle in handles))
    except TimeoutError:  # launchers delete the nodes that could not be returned in time
        if not leaving.expired():
            raise
    return 0 if len(results) == count and all(results) else 1


async def _ask(
    client: NodeClient | HttpNodeClient,
    handles: list[Handle],
    labels: Sequence[str],
    options: RequestOptions,
    outcomes: _Outcomes,
    *,
    count: int,
    wait: Wait,
) -> None:
    """Submit *count* requests and add them to *handles*; print a message if the time is over before.

    Raises: StoreError, HttpError.
    """
    try:
        async with wait.limit():
            for _ in range(count):
                handles.append(await client.submit(labels, **options))  # noqa: PERF401  each has to be given back
    except TimeoutError:
        trouble = _trouble(client)
        waited = f"the requests could not be submitted within {wait.timeout_s:g} s"
        outcomes.complain(f"{waited}: {trouble}" if trouble else waited)


async def _give_back(handle: Handle, wait: Wait) -> None:
    with suppress(NodelaunchError):  # launchers remove the rest when the session ends
        if isinstance(handle, RequestHandle):
            await handle.cancel()
        else:
            await handle.cancel(within_s=LEAVE_S if wait.is_over else None)


def _trouble(client: NodeClient | HttpNodeClient) -> str:
    """Return why the launcher or the store does not answer, as far as is known."""
    trouble = trouble_of(client.store) if isinstance(client, NodeClient) else client.trouble
    return str(trouble) if trouble else ""


async def _why(handle: Handle) -> Sequence[str]:
    """Return the reasons of the launchers that answer in time."""
    try:
        async with asyncio.timeout(LEAVE_S):
            return await handle.why()
    except TimeoutError:
        return ()


async def _use(
    client: NodeClient | HttpNodeClient,
    handle: Handle,
    labels: Sequence[str],
    outcomes: _Outcomes,
    *,
    wait: Wait,
    hold_s: float,
) -> bool:
    """Wait for the nodes of one request, keep them, return them; return True on success."""
    taken = False
    try:
        try:
            async with wait.limit():
                request = await handle.finished(outcomes.progress)
        except TimeoutError:
            assert wait.timeout_s is not None  # noqa: S101
            trouble = _trouble(client)
            reasons = (trouble,) if trouble else await _why(handle)
            raise NodesNotThereError(handle.id, labels, wait.timeout_s, reasons) from None
        if request.state is RequestState.FAILED:
            raise RequestFailedError(request.id, request.declined_by, await handle.why())
        async with client.hold(request) as nodes:
            taken = True
            outcomes.fulfilled(request, nodes)
            await asyncio.sleep(hold_s)
    except NodelaunchError as error:
        outcomes.complain(error)
        if not taken:
            outcomes.failed(handle.id, error)
        return False
    return True


class _Outcomes:
    """Prints the nodes of requests: as text when each request is fulfilled, as JSON when all requests have ended."""

    def __init__(self, count: int, session: CliSession, *, as_json: bool) -> None:
        self.progress = _Progress()
        self._session = session
        self._waiting = count
        self._as_json = as_json
        self._found: list[dict[str, Any]] = []

    def fulfilled(self, request: NodeRequest, nodes: Sequence[Node]) -> None:
        described = [_described(node) for node in nodes]
        self._found.append({"request": request.id, "nodes": described})
        if not self._as_json:
            for node in described:
                say("  ".join(f"{key}={_text(value)}" for key, value in node.items() if value not in (None, [])))
        self._settled()

    def complain(self, text: object) -> None:
        self._session.complain(f"nodelaunch: {text}")

    def failed(self, request_id: str, error: NodelaunchError) -> None:
        reasons = list(getattr(error, "reasons", ()))
        self._found.append(
            {"request": request_id, "nodes": [], "error": str(error).partition("\n")[0], "reasons": reasons}
        )
        self._settled()

    def _settled(self) -> None:
        self._waiting -= 1
        if self._as_json and not self._waiting:
            say_json(self._found)


def _end_on_signals() -> None:
    """On Ctrl-C and SIGTERM, return the nodes before the command ends."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


class _Progress:
    """Shows progress: one line updated in place on a terminal, otherwise a line per change on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def __call__(self, request: NodeRequest) -> None:
        styles = {RequestState.FULFILLED: "green", RequestState.FAILED: "red", RequestState.PENDING: "yellow"}
        state = request.state.value
        self._console.print(
            f"{request.id}  [{styles.get(request.state, 'cyan')}]{state:<10}[/]  {' '.join(request.node_types)}"
        )


def _described(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "label": ",".join(node.type),
        "provider": node.provider,
        "pool": node.pool,
        "interface_ip": node.interface_ip,
        "connection_port": node.connection_port,
        "connection_type": node.connection_type,
        "username": node.username,
        "host_keys": list(node.host_keys),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
