"""``nodelaunch demo``: serves node requests on this machine, without other services.

It uses an embedded store, a fake cloud with two pools, and one static node that is a real SSH server on loopback. It
submits a burst of requests, shows a live table and returns every node. It exits with 0 only if every request was
fulfilled and nothing leaked.
"""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.text import Text

from nodelaunch.cli.demossh import demo_ssh_server
from nodelaunch.cli.tables import aligned
from nodelaunch.client.nodes import NodeClient
from nodelaunch.errors import RequestFailedError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a command that SIGTERM ended."""
LIMIT_S = 18.0
"""The demo ends within this time."""
SETTLE_S = 8.0
"""The time within which used nodes have to be deleted."""
JOBS: tuple[tuple[str, ...], ...] = (
    *[("debian-12",)] * 6,
    *[("ubuntu-24.04",)] * 4,
    ("debian-12", "debian-12"),
    ("ubuntu-24.04", "debian-12", "ubuntu-24.04"),
    *[("arm-lab",)] * 3,
    ("debian-12-large",),
)
"""The labels of each request; there is one arm-lab machine, so its three requests are served one after another."""

STYLES = {
    "green": (RequestState.FULFILLED,),
    "red": (RequestState.FAILED,),
    "yellow": (RequestState.PENDING,),
    "cyan": (RequestState.REQUESTED,),
}
"""The colours of states."""


def demo(*, keep: Annotated[bool, Parameter(help="Continue to serve afterwards, until Ctrl-C.")] = False) -> int:
    """Serve node requests with a fake cloud on this machine, without other services.

    Exit code: 0 every request was fulfilled and nothing leaked; 1 otherwise.
    """
    try:
        return asyncio.run(_demo(keep=keep))
    except asyncio.CancelledError:  # by SIGTERM, also where SIGINT is ignored, as in the background of a shell's script
        return TERMINATED


def demo_config(host: str, port: int, host_keys: list[str], store: Path) -> str:
    """Return the demo's configuration as YAML; the static machine is the SSH server at *host* and *port*."""
    cloud_images = "cloud-images: [{name: debian-12}, {name: ubuntu-24.04}]"
    return f"""
embedded-store: {{path: {json.dumps(str(store))}}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: debian-12}}, {{name: debian-12-large}}, {{name: ubuntu-24.04}}, {{name: arm-lab}}]
providers:
  - name: demo-cloud
    driver: fake
    boot-time: 0.6
    delete-time: 0.2
    {cloud_images}
    pools:
      - name: north
        max-servers: 5
        labels:
          - {{name: debian-12, cloud-image: debian-12, min-ram: 8192}}
          - {{name: debian-12-large, cloud-image: debian-12, min-ram: 8192}}
      - name: south
        max-servers: 4
        labels:
          - {{name: debian-12, cloud-image: debian-12, min-ram: 8192}}
          - {{name: ubuntu-24.04, cloud-image: ubuntu-24.04, min-ram: 8192}}
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes:
          - name: {host}
            connection-port: {port}
            labels: [arm-lab]
            host-key: {json.dumps(host_keys)}
"""


async def _demo(*, keep: bool) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console = Console()
    started = asyncio.get_running_loop().time()
    async with _launcher() as launcher:
        board = _Board(launcher)
        with Live(board, console=console, refresh_per_second=8, transient=False):
            try:
                async with asyncio.timeout(LIMIT_S):
                    await _burst(launcher, board)
            except TimeoutError:
                board.problems.append(f"not done within {LIMIT_S:g} s")
            await _settle(launcher, board)
        if not console.is_terminal:
            console.print()  # the last frame of the table has no line break at its end
        console.print(f"\n{board.summary()}", highlight=False)
        leaks = await _leaks(launcher)
        board.problems += leaks
        for problem in board.problems:
            console.print(f"[red]{problem}[/]")
        took = asyncio.get_running_loop().time() - started
        if not board.problems:
            console.print(
                f"[green]{len(JOBS)} requests fulfilled, all nodes returned, nothing leaked[/] ({took:.1f} s)"
            )
        if keep:
            console.print("still serving requests; Ctrl-C ends the demo")
            await asyncio.Event().wait()
    return 1 if board.problems else 0


@asynccontextmanager
async def _launcher() -> AsyncIterator[Launcher]:
    """Run a launcher with the demo's configuration."""
    with tempfile.TemporaryDirectory(prefix="nodelaunch-demo-") as folder:
        async with demo_ssh_server() as server:
            path = Path(folder) / "demo.yaml"
            path.write_text(
                demo_config(server.host, server.port, list(server.host_keys), Path(folder) / "store.sqlite")
            )
            launcher = Launcher(load_config(path), store=EmbeddedStore(None))
            async with launcher:
                running = asyncio.ensure_future(launcher.run())
                try:
                    yield launcher
                    await launcher.drain(grace_s=2.0)
                finally:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)


async def _burst(launcher: Launcher, board: _Board) -> None:
    """Run all jobs at once, each as a CI system would."""
    async with NodeClient(launcher.store) as client:
        results = await asyncio.gather(*(_job(client, labels, board) for labels in JOBS), return_exceptions=True)
    board.problems += [str(result) for result in results if isinstance(result, BaseException)]


async def _job(client: NodeClient, labels: tuple[str, ...], board: _Board) -> None:
    loop = asyncio.get_running_loop()
    submitted = loop.time()
    handle = await client.submit(labels)
    board.requests[handle.id] = handle.request
    request = await handle.finished(lambda seen: board.requests.__setitem__(seen.id, seen))
    if request.state is RequestState.FAILED:
        raise RequestFailedError(request.id, request.declined_by)
    board.ready_after[" + ".join(labels)].append(loop.time() - submitted)
    async with client.hold(request):
        await asyncio.sleep(0.3)  # the job itself


async def _settle(launcher: Launcher, board: _Board) -> None:
    """Wait until the static machine, registered again, is the only node."""
    quiet = asyncio.Event()
    unsubscribe = launcher.view.subscribe(lambda _note: quiet.set())
    try:
        async with asyncio.timeout(SETTLE_S):
            while not _is_settled(launcher):
                quiet.clear()
                await quiet.wait()
    except TimeoutError:
        board.problems.append(f"nodes not deleted within {SETTLE_S:g} s")
    finally:
        unsubscribe()


def _is_settled(launcher: Launcher) -> bool:
    nodes = [seen.record for seen in launcher.view.nodes.values()]
    return [node.provider for node in nodes] == ["lab"] and nodes[0].is_idle


async def _leaks(launcher: Launcher) -> list[str]:
    """Return the instances and requests that were not removed."""
    instances = [i async for i in launcher.providers["demo-cloud"].driver.list_instances()]
    leaks = [f"instance {instance.external_id} was left behind" for instance in instances]
    return leaks + [f"request {request_id} was left behind" for request_id in launcher.view.requests]


class _Board:
    """The table: requests and nodes by their current state, then the times to ready."""

    def __init__(self, launcher: Launcher) -> None:
        self.requests: dict[str, NodeRequest] = {}
        self.ready_after: defaultdict[str, list[float]] = defaultdict(list)
        self.problems: list[str] = []
        self._launcher = launcher

    def __rich__(self) -> Text:
        text = Text(f"{self._request_table()}\n\n{self._node_table()}")
        for style, states in STYLES.items():
            text.highlight_words([state.value for state in states], style)
        return text

    def _request_table(self) -> str:
        rows = (
            (request_id, " ".join(request.node_types), request.state.value, " ".join(request.nodes))
            for request_id, request in sorted(self.requests.items())
        )
        return _table("node requests", ("request", "labels", "state", "nodes"), rows)

    def _node_table(self) -> str:
        counts: defaultdict[tuple[str, str], Counter[NodeState]] = defaultdict(Counter)
        for seen in self._launcher.view.nodes.values():
            counts[seen.record.provider or "", seen.record.pool or ""][seen.record.state] += 1
        shown = [NodeState.BUILDING, NodeState.READY, NodeState.IN_USE, NodeState.USED, NodeState.DELETING]
        rows = (
            (f"{provider.name}/{pool.name}", *(str(counts[provider.name, pool.name][state] or "") for state in shown))
            for provider in self._launcher.config.providers
            for pool in provider.pools
        )
        return _table("nodes", ("pool", *(state.value for state in shown)), rows)

    def summary(self) -> str:
        rows = (
            (labels, str(len(seconds)), f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}")
            for labels, seconds in sorted(self.ready_after.items())
        )
        return _table("time to ready", ("labels", "requests", "median s", "longest s"), rows)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"{title}\n{aligned([head, *rows])}"
