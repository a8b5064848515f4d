"""The HTTP face of a launcher: an ASGI application, served by itself or mounted into another one.

    /health/live    200 while the event loop answers
    /health/ready   200 while every pool can work: store connected, view warm, not draining; else 503, saying why
    /ready          the same under Nodepool's name
    /node-list ...  Nodepool's lists, as text or JSON
    /api/v1/...     requests and actions, with a token

What does *not* belong here: what each of them says (the other modules of this package), and where it is served
(serving.py).
"""

from __future__ import annotations

from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nodelaunch.engine.view import ClusterView
from nodelaunch.web.api import Api
from nodelaunch.web.lists import Lists


class Watched(Protocol):
    """What is shown: a launcher."""

    @property
    def view(self) -> ClusterView:
        """Raises: RuntimeError before the launcher is entered."""

    def readiness(self) -> list[str]:
        """Why it can't take requests just now, one reason each; empty: it can."""


def make_app(launcher: Watched, *, api: Api | None = None) -> Starlette:
    """The application; *launcher* is asked at each request, and need not be entered yet.

    *api*: for requests and actions.
    """

    async def live(_request: Request) -> Response:
        return PlainTextResponse("OK\n")

    async def ready(_request: Request) -> Response:
        reasons = launcher.readiness()
        if reasons:
            return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), 503)
        return PlainTextResponse("OK\n")

    return Starlette(
        routes=[
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/ready", ready),
            *Lists(lambda: launcher.view).routes(),
            *([api.route()] if api is not None else ()),
        ]
    )
