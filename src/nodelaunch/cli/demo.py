"""``nodelaunch demo``: the main job on this machine, with nothing else needed.

An embedded store in memory, a fake cloud with two pools, one static node that is a real SSH server on loopback, and a
burst of requests; a live table of what happens; everything given back; exit 0 only if every request was fulfilled and
nothing leaked.
"""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from nodelaunch.cli.demossh import demo_ssh_server
from nodelaunch.client.nodes import NodeClient
from nodelaunch.errors import RequestFailedError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a command that SIGTERM ended."""
LIMIT_S = 18.0
"""The demo ends by itself before this."""
SETTLE_S = 8.0
"""How long used nodes may take to be gone."""
JOBS: tuple[tuple[str, ...], ...] = (
    *[("debian-12",)] * 6,
    *[("ubuntu-24.04",)] * 4,
    ("debian-12", "debian-12"),
    ("ubuntu-24.04", "debian-12", "ubuntu-24.04"),
    *[("arm-lab",)] * 3,
    ("debian-12-large",),
)
"""The labels of each request; there is one arm-lab machine, so its three requests wait for one another."""


def demo(*, keep: Annotated[bool, Parameter(help="Continue to serve afterwards, until Ctrl-C.")] = False) -> int:
    """Show the main job on this machine; needs nothing else.

    Exit code: 0 every request was fulfilled and nothing was left behind.
    """
    try:
        return asyncio.run(_demo(keep=keep))
    except asyncio.CancelledError:  # by SIGTERM, also where SIGINT is ignored, as in the background of a shell's script
        return TERMINATED


def demo_config(host: str, port: int, host_keys: list[str], store: Path) -> str:
    """The YAML the demo runs on; the static machine is the SSH server at *host* and *port*."""
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
            console.print()  # the board, shown for good, has no end of line there
        console.print(board.summary())
        leaks = await _leaks(launcher)
        board.problems += leaks
        for problem in board.problems:
            console.print(f"[red]{problem}[/]")
        took = asyncio.get_running_loop().time() - started
        if not board.problems:
            console.print(
                f"[green]{len(JOBS)} requests fulfilled, everything given back, nothing leaked[/] ({took:.1f} s)"
            )
        if keep:
            console.print("serving on, until Ctrl-C")
            await asyncio.Event().wait()
    return 1 if board.problems else 0


@asynccontextmanager
async def _launcher() -> AsyncIterator[Launcher]:
    """A running launcher on the demo's configuration."""
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
    """All jobs at once, each as a CI system would run it."""
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
    """Wait until only what is always there is left: the static machine, registered anew."""
    quiet = asyncio.Event()
    unsubscribe = launcher.view.subscribe(lambda _note: quiet.set())
    try:
        async with asyncio.timeout(SETTLE_S):
            while not _is_settled(launcher):
                quiet.clear()
                await quiet.wait()
    except TimeoutError:
        board.problems.append(f"nodes not gone within {SETTLE_S:g} s")
    finally:
        unsubscribe()


def _is_settled(launcher: Launcher) -> bool:
    nodes = [seen.record for seen in launcher.view.nodes.values()]
    return [node.provider for node in nodes] == ["lab"] and nodes[0].is_idle


async def _leaks(launcher: Launcher) -> list[str]:
    """What the fake cloud still has, or the store, that it should not."""
    instances = [i async for i in launcher.providers["demo-cloud"].driver.list_instances()]
    leaks = [f"instance {instance.external_id} was left behind" for instance in instances]
    return leaks + [f"request {request_id} was left behind" for request_id in launcher.view.requests]


class _Board:
    """What is shown: requests and nodes by state as of now, then how long it took."""

    def __init__(self, launcher: Launcher) -> None:
        self.requests: dict[str, NodeRequest] = {}
        self.ready_after: defaultdict[str, list[float]] = defaultdict(list)
        self.problems: list[str] = []
        self._launcher = launcher

    def __rich__(self) -> Group:
        return Group(self._request_table(), self._node_table())

    def _request_table(self) -> Table:
        table = Table(title="node requests", title_justify="left")
        for name in ("request", "labels", "state", "nodes"):
            table.add_column(name)
        styles = {RequestState.FULFILLED: "green", RequestState.FAILED: "red", RequestState.PENDING: "yellow"}
        for request_id, request in sorted(self.requests.items()):
            style = styles.get(request.state, "cyan")
            table.add_row(
                request_id, " ".join(request.node_types), f"[{style}]{request.state.value}[/]", " ".join(request.nodes)
            )
        return table

    def _node_table(self) -> Table:
        counts: defaultdict[tuple[str, str], Counter[NodeState]] = defaultdict(Counter)
        for seen in self._launcher.view.nodes.values():
            counts[seen.record.provider or "", seen.record.pool or ""][seen.record.state] += 1
        shown = [NodeState.BUILDING, NodeState.READY, NodeState.IN_USE, NodeState.USED, NodeState.DELETING]
        table = Table(title="nodes", title_justify="left")
        for name in ("pool", *(state.value for state in shown)):
            table.add_column(name, justify="left" if name == "pool" else "right")
        for provider in self._launcher.config.providers:
            for pool in provider.pools:
                counter = counts[provider.name, pool.name]
                table.add_row(f"{provider.name}/{pool.name}", *(str(counter[state] or "") for state in shown))
        return table

    def summary(self) -> Table:
        table = Table(title="time to ready", title_justify="left")
        for name in ("labels", "requests", "median s", "longest s"):
            table.add_column(name, justify="left" if name == "labels" else "right")
        for labels, seconds in sorted(self.ready_after.items()):
            table.add_row(labels, str(len(seconds)), f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}")
        return table
