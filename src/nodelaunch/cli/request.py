"""``nodelaunch request LABEL...``: ask for nodes as a CI system would, show how it goes, give them back."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console

from nodelaunch.cli.common import add_config_arguments, client_store, config_of, say, say_json
from nodelaunch.client import NodeClient, RequestHandle
from nodelaunch.config.models import Config
from nodelaunch.errors import RequestFailedError, StoreError
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import RequestState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", nargs="+", metavar="LABEL", help="one node each, in this order")
    add_config_arguments(parser)
    parser.add_argument("--count", type=_positive, default=1, metavar="N", help="as many such requests (default: 1)")
    parser.add_argument("--hold", type=float, default=0.0, metavar="SECONDS", help="keep the nodes for so long")
    parser.add_argument("--timeout", type=float, default=None, metavar="SECONDS", help="give up waiting after so long")
    parser.add_argument("--json", action="store_true", help="print the nodes as JSON")
    parser.set_defaults(run=run, default_log_level="warning")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_request(config_of(args), args))


async def _request(config: Config, args: argparse.Namespace) -> int:
    _end_on_signals()
    async with client_store(config) as store, NodeClient(store) as client:
        handles = [await client.submit(args.labels) for _ in range(args.count)]
        show = _Progress()
        try:
            async with asyncio.timeout(args.timeout):
                results = await asyncio.gather(
                    *(_one(client, handle, args, show) for handle in handles), return_exceptions=True
                )
        except TimeoutError:
            say(f"not fulfilled within {args.timeout:g} s")
            return 1
        finally:
            for handle in handles:
                with suppress(StoreError):  # what is left goes with our session
                    await handle.cancel()
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        print(f"nodelaunch: {failure}", file=sys.stderr)  # noqa: T201
    if args.json:
        say_json([result for result in results if not isinstance(result, BaseException)])
    return 1 if failures else 0


def _end_on_signals() -> None:
    """End in order, nodes given back, on Ctrl-C and SIGTERM alike."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


class _Progress:
    """A line for each change: in place on a terminal, plain text on standard error elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def __call__(self, request: NodeRequest) -> None:
        styles = {RequestState.FULFILLED: "green", RequestState.FAILED: "red", RequestState.PENDING: "yellow"}
        state = request.state.value
        self._console.print(
            f"{request.id}  [{styles.get(request.state, 'cyan')}]{state:<10}[/]  {' '.join(request.node_types)}"
        )


async def _one(client: NodeClient, handle: RequestHandle, args: argparse.Namespace, show: _Progress) -> dict[str, Any]:
    request = await handle.finished(show)
    if request.state is RequestState.FAILED:
        raise RequestFailedError(request.id, request.declined_by)
    async with client.hold(request) as nodes:
        described = [_described(node) for node in nodes]
        if not args.json:
            for node in described:
                say("  ".join(f"{key}={_short(value)}" for key, value in node.items() if value not in (None, [])))
        await asyncio.sleep(args.hold)
    return {"request": request.id, "nodes": described}


def _described(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "label": ",".join(node.type),
        "provider": node.provider,
        "pool": node.pool,
        "interface_ip": node.interface_ip,
        "connection_port": node.connection_port,
        "username": node.username,
        "host_keys": list(node.host_keys),
    }


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
