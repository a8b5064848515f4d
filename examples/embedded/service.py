"""A web service with machines: a launcher, its pages and a page of the service's own, all in one event loop.

    uvicorn service:app --app-dir examples/embedded --port 8000

``/`` is the service's page, ``/nodes/`` the launcher's. ``POST /run?command=uptime`` gets a machine, would run the
command there, and gives the machine back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Mount, Route

from nodelaunch import Launcher, NodeClient, config_from
from nodelaunch.errors import RequestFailedError
from nodelaunch.protocol.events import LaunchEnded
from nodelaunch.store.embedded import EmbeddedStore
from nodelaunch.web.app import make_app

CONFIG: dict[str, Any] = {
    "labels": [{"name": "small", "min-ready": 1}],
    "providers": [
        {
            "name": "pretend",
            "driver": "fake",
            "boot-time": 0.2,
            "cloud-images": [{"name": "debian"}],
            "pools": [
                {
                    "name": "main",
                    "max-servers": 4,
                    "labels": [{"name": "small", "cloud-image": "debian", "min-ram": 4096}],
                }
            ],
        }
    ],
}
LABEL = "small"

store = EmbeddedStore(None)
"""In memory: the machines are gone with the process. With a path in its place, the machines are kept."""
launcher = Launcher(config_from(CONFIG), store=store)
launches: deque[LaunchEnded] = deque(maxlen=10)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The launcher works as long as the service does."""
    launcher.events.subscribe(launches.append, LaunchEnded)
    async with launcher, store.connect() as session, NodeClient(session, requestor="service") as client:
        app.state.client = client
        running = asyncio.create_task(launcher.run())
        yield
        await launcher.drain()
        await running


async def page(_request: Request) -> HTMLResponse:
    """Return the page with the latest events of the service."""
    rows = "".join(f"<li>{event.label}: {event.result} after {event.took_s:.1f} s</li>" for event in launches)
    return HTMLResponse(f"<h1>Our service</h1><ul>{rows}</ul><p><a href='nodes/'>machines</a></p>")


async def run_command(request: Request) -> JSONResponse:
    """Get a machine, use it, and return it."""
    command = request.query_params.get("command", "true")
    try:
        async with request.app.state.client.nodes([LABEL]) as (node,):
            return JSONResponse({"ran": command, "on": node.interface_ip, "node": node.id})
    except RequestFailedError as error:
        return JSONResponse({"error": str(error)}, status_code=503)


app = Starlette(
    routes=[
        Route("/", page),
        Route("/run", run_command, methods=["POST"]),
        Mount("/nodes", make_app(launcher)),
    ],
    lifespan=lifespan,
)
