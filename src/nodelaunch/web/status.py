"""The status page and its data: ``/``, ``/status.json`` and ``/nodes.json[?text=T&state=S&limit=N]``.

Data are cached for a second, so that many readers cost no more than one. The page is one file and loads nothing from
other sites. monitoring/overview.py collects the data.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from nodelaunch.launcher import Launcher
from nodelaunch.monitoring.overview import Overview
from nodelaunch.operations.listing import node_facts, take_snapshot

T = TypeVar("T")

FRESH_S: Final = 1.0
"""Time that data are cached."""
NODES_SHOWN: Final = 200
"""Default number of nodes in one answer."""
MAX_NODES: Final = 10_000
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
SEARCHED: Final = (
    "id", "provider", "pool", "server_id", "interface_ip", "hostname", "allocated_to", "comment", "hold_job", "tenant"
)  # fmt: skip
"""The fields of a node that a search covers, besides its labels."""


class _Kept(Generic[T]):
    """The cached result of *take*; concurrent readers share one call."""

    def __init__(self, take: Callable[[], Awaitable[T]]) -> None:
        self._take = take
        self._value: T | None = None
        self._fresh_until = 0.0
        self._taking = asyncio.Lock()

    async def get(self) -> T:
        loop = asyncio.get_running_loop()
        async with self._taking:
            if self._value is None or loop.time() >= self._fresh_until:
                self._value = await self._take()
                self._fresh_until = loop.time() + FRESH_S
            return self._value


class StatusPage:
    """Serves the status page of *launcher* and its data."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._overview = Overview(launcher)
        self._status = _Kept(self._take_status)
        self._nodes = _Kept(self._take_nodes)

    def routes(self) -> list[Route]:
        return [
            Route("/", self._page),
            Route("/status.json", self._respond_status),
            Route("/nodes.json", self._respond_nodes),
        ]

    async def _page(self, _request: Request) -> Response:
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return HTMLResponse(_page(), headers=headers)

    async def _respond_status(self, _request: Request) -> Response:
        return _json(await self._status.get())

    async def _take_status(self) -> str:
        glance = self._overview.take()
        return await asyncio.to_thread(lambda: json.dumps(glance.to_json()))

    async def _respond_nodes(self, request: Request) -> Response:
        if not self._launcher.is_open:
            return PlainTextResponse("not connected to the store yet\n", 503)
        asked = request.query_params
        try:
            limit = int(asked.get("limit", NODES_SHOWN))
        except ValueError:
            return PlainTextResponse("limit: a whole number is expected\n", 400)
        facts = await self._nodes.get()
        text, state, limit = asked.get("text", "").lower(), asked.get("state", ""), max(0, min(limit, MAX_NODES))
        return _json(await asyncio.to_thread(lambda: json.dumps(_chosen(facts, text, state, limit))))

    async def _take_nodes(self) -> list[dict[str, Any]]:
        snapshot = take_snapshot(self._launcher.view, self._launcher.events.now())
        return await asyncio.to_thread(node_facts, snapshot)


def _chosen(facts: list[dict[str, Any]], text: str, state: str, limit: int) -> dict[str, Any]:
    matching = [node for node in facts if (not state or node["state"] == state) and (not text or _has(node, text))]
    return {"total": len(facts), "matching": len(matching), "nodes": matching[:limit]}


def _has(node: dict[str, Any], text: str) -> bool:
    values = [*(node[key] for key in SEARCHED), *node["label"]]
    return any(text in str(value).lower() for value in values if value)


def _json(body: str) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


def _page() -> str:
    return (files("nodelaunch.web") / "page" / "index.html").read_text()
