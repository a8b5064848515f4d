"""Nodepool's lists over HTTP: paths, formats, filters and caching as its web pages have them.

    /node-list[?node_id=ID]   /request-list   /label-list   /image-list   /dib-image-list   /image-status

``Accept: application/json`` gives JSON, otherwise a table as text. ``fields=a,b`` selects columns of the table.
An answer is cached for a second. Rows are made in another thread, so that 10,000 rows don't block the event loop.
Source: Nodepool 11, its ``webapp`` module; and for what the header asks for, RFC 9110, section 12.5.1.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from prettytable import PrettyTable
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nodelaunch.engine.view import ClusterView
from nodelaunch.operations.listing import BY_NAME, Listing, Snapshot, node_list, take_snapshot

FRESH_S = 1
"""Time that an answer is cached. Source: Nodepool."""
KEPT = 64
"""The most cached answers."""


@dataclass(frozen=True, slots=True)
class _Answer:
    body: str
    made_at: float


class Lists:
    """Makes the lists from *view*, which may raise RuntimeError while there is no view.

    No list is made before the view was complete for the first time: locked nodes would be listed as unlocked. Later,
    while the view is stale, lists show what was known last.
    """

    def __init__(self, view: Callable[[], ClusterView]) -> None:
        self._view = view
        self._was_synced = False
        self._answers: dict[tuple[object, ...], _Answer] = {}

    def routes(self) -> list[Route]:
        return [Route(f"/{name}", self._respond, name=name) for name in BY_NAME]

    async def _respond(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        as_json = wants_json(request.headers.get("accept", ""))
        fields = frozenset(filter(None, request.query_params.get("fields", "").split(",")))
        node_id = request.query_params.get("node_id") if name == "node-list" else None
        try:
            view = self._view()
        except RuntimeError:
            return PlainTextResponse("not connected to the store yet\n", 503)
        self._was_synced = self._was_synced or view.is_synced
        if not self._was_synced:
            return PlainTextResponse("view of the cluster not in sync yet\n", 503)
        answer = await self._answer(view, name, as_json, fields, node_id)
        headers = {
            "Access-Control-Allow-Origin": "*",
            "Cache-Control": f"public, max-age={FRESH_S}",
            "Last-Modified": formatdate(answer.made_at, usegmt=True),
            "Expires": formatdate(answer.made_at + FRESH_S, usegmt=True),
        }
        if _is_known(request.headers.get("if-modified-since"), answer.made_at):
            return Response(status_code=304, headers=headers)
        media_type = "application/json" if as_json else "text/plain"
        return Response(answer.body, media_type=media_type, headers=headers)

    async def _answer(
        self, view: ClusterView, name: str, as_json: bool, fields: frozenset[str], node_id: str | None
    ) -> _Answer:
        key = (name, as_json, fields, node_id)
        now = time.time()
        known = self._answers.get(key)
        if known is not None and now - known.made_at <= FRESH_S:
            return known
        snapshot = take_snapshot(view, now)
        body = await asyncio.to_thread(_body, snapshot, name, as_json, fields, node_id)
        self._answers.pop(key, None)
        self._answers[key] = answer = _Answer(body, now)
        while len(self._answers) > KEPT:
            del self._answers[next(iter(self._answers))]
        return answer


def _body(snapshot: Snapshot, name: str, as_json: bool, fields: frozenset[str], node_id: str | None) -> str:
    listing = node_list(snapshot, node_id) if node_id else BY_NAME[name](snapshot)
    return json.dumps([dict(row) for row in listing.rows]) if as_json else table(listing.only(fields), snapshot.at)


def table(listing: Listing, now: float) -> str:
    """Return *listing* as Nodepool prints it."""
    made = PrettyTable(list(listing.titles.values()))
    made.align = "l"
    made.add_rows(listing.cells(now))
    return made.get_string()


def wants_json(accept: str) -> bool:
    """Return True if *accept* prefers JSON to HTML and text; False if it has no preference."""
    qualities = [_quality(accept, kind) for kind in ("text/html", "text/plain", "application/json")]
    return qualities[2] > max(qualities[:2])


def _quality(accept: str, kind: str) -> float:
    """Return the preference for *kind*, 0 to 1, by the most specific range that matches."""
    best, found = -1, 0.0 if accept.strip() else 1.0
    for each in accept.split(","):
        span, *parameters = (part.strip() for part in each.split(";"))
        rank = ("*/*", f"{kind.partition('/')[0]}/*", kind).index(span) if _takes_in(span, kind) else -1
        if rank > best:
            best, found = rank, _q(parameters)
    return found


def _takes_in(span: str, kind: str) -> bool:
    return span in ("*/*", f"{kind.partition('/')[0]}/*", kind)


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _is_known(since: str | None, made_at: float) -> bool:
    """Return True if the client already has the answer made at *made_at*. Times in headers are whole seconds."""
    if since is None:
        return False
    try:
        return int(made_at) <= parsedate_to_datetime(since).timestamp()
    except (ValueError, TypeError):
        return False
