"""Errors over HTTP as problem documents, which programs can read.

Source: RFC 9457.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818  the word of RFC 9457
    """An error answer."""

    def __init__(
        self, status: int, name: str, title: str, detail: str = "", *, headers: Mapping[str, str] | None = None
    ) -> None:
        """*name* is for programs, and constant for each *title*; *detail* has the details of this case."""
        super().__init__(f"{title}: {detail}" if detail else title)
        self.status = status
        self.name = name
        self.title = title
        self.detail = detail
        self.headers = headers

    def response(self) -> Response:
        return _response(self.status, self.name, self.title, self.detail, self.headers)


async def on_problem(_request: Request, error: Exception) -> Response:
    """Answer a `Problem`."""
    assert isinstance(error, Problem)  # noqa: S101
    return error.response()


async def on_http_exception(_request: Request, error: Exception) -> Response:
    """Answer an error of the router itself: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101
    name = error.detail.lower().replace(" ", "-")
    return _response(error.status_code, name, error.detail, "", error.headers)


def _response(status: int, name: str, title: str, detail: str, headers: Mapping[str, str] | None) -> Response:
    body: dict[str, Any] = {"type": f"urn:nodelaunch:problem:{name}", "title": title, "status": status}
    if detail:
        body["detail"] = detail
    return Response(
        msgspec.json.encode(body),
        status,
        headers={**(headers or {}), "Cache-Control": "no-store"},
        media_type=MEDIA_TYPE,
    )
