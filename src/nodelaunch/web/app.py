"""The HTTP face of a launcher: an ASGI application, served by itself or mounted into another one.

    /health/live    200 while the event loop answers
    /health/ready   200 while every pool can work: store connected, view warm, not draining; else 503, saying why.
                    What operators have paused is named, and is no reason against it.
    /ready          the same under Nodepool's name
    /node-list ...  Nodepool's lists, as text or JSON

What does *not* belong here: what each of them says (the other modules of this package), and where it is served
(serving.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.pauses import Pause
from nodelaunch.protocol.triage import PoolKey
from nodelaunch.web.lists import Lists


class Watched(Protocol):
    """What is shown: a launcher."""

    @property
    def view(self) -> ClusterView:
        """Raises: RuntimeError before the launcher is entered."""

    @property
    def pauses(self) -> Mapping[PoolKey, Sequence[Pause]]:
        """By which operators have paused its pools."""

    def readiness(self) -> list[str]:
        """Why it can't take requests just now, one reason each; empty: it can."""


def make_app(launcher: Watched) -> Starlette:
    """The application; *launcher* is asked at each request, and need not be entered yet."""

    async def live(_request: Request) -> Response:
        return PlainTextResponse("OK\n")

    async def ready(_request: Request) -> Response:
        reasons = launcher.readiness()
        paused = dict.fromkeys(str(pause) for pauses in launcher.pauses.values() for pause in pauses)
        lines = [*(reasons or ["OK"]), *paused]
        return PlainTextResponse("".join(f"{line}\n" for line in lines), 503 if reasons else 200)

    return Starlette(
        routes=[
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/ready", ready),
            *Lists(lambda: launcher.view).routes(),
        ]
    )
