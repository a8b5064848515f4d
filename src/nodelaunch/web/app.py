"""The HTTP application of a launcher: an ASGI application, served by itself or mounted into another one.

    /health/live    200 while the event loop answers
    /health/ready   200 while every pool can work: store connected, view in sync, not draining; else 503 with the
                    reasons. Pauses and remarks on the configuration are listed too, but don't change the status.
    /ready          the same under Nodepool's name
    /node-list ...  Nodepool's lists, as text or JSON
    /               the status page, and its data in /status.json and /nodes.json
    /metrics        metrics for Prometheus
    /events         events, as server-sent events
    /api/v1/...     requests and actions, with a token

The other modules of this package make the answers; serving.py serves the application.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nodelaunch.launcher import Launcher
from nodelaunch.monitoring.metrics import CONTENT_TYPE, Metrics
from nodelaunch.web.api import Api
from nodelaunch.web.lists import Lists
from nodelaunch.web.status import StatusPage
from nodelaunch.web.streams import EventStreams


def make_app(launcher: Launcher, *, api: Api | None = None) -> Starlette:
    """Return the application; it asks *launcher* at each request, and *launcher* may be entered later.

    *api*: the API for requests and actions.
    """

    async def live(_request: Request) -> Response:
        return PlainTextResponse("OK\n")

    async def ready(_request: Request) -> Response:
        reasons = launcher.readiness()
        paused = dict.fromkeys(str(pause) for pauses in launcher.pauses.values() for pause in pauses)
        lines = [*(reasons or ["OK"]), *paused, *launcher.config_standing.remarks()]
        return PlainTextResponse("".join(f"{line}\n" for line in lines), 503 if reasons else 200)

    metrics = Metrics(launcher)

    async def figures(_request: Request) -> Response:
        return Response(await metrics.render(), media_type=CONTENT_TYPE)

    return Starlette(
        routes=[
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/ready", ready),
            Route("/metrics", figures),
            Route("/events", EventStreams(launcher.events).respond),
            *StatusPage(launcher).routes(),
            *Lists(lambda: launcher.view).routes(),
            *([api.route()] if api is not None else ()),
        ]
    )
