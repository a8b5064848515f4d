"""Reads what a request carries: its body as JSON of one type, and the figures in its query.

Everything is bounded: bytes, depth, and the time in which it has to come. What does *not* belong here: what the types
are (messages.py).
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from nodelaunch.web.problems import Problem

MOST_BYTES = 64 * 1024
DEEPEST = 32
BODY_S = 10.0
"""How long a body may take to arrive."""

T = TypeVar("T")


async def read_body(request: Request, kind: type[T]) -> T:
    """The request's body; where it has none, *kind* with nothing but defaults. Raises: Problem."""
    data = await _data(request)
    if data and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "not-json", "the body has to be JSON", "send it with Content-Type: application/json")
    try:
        body: Any = msgspec.json.decode(data or b"{}")
        if _is_deeper(body, DEEPEST):
            raise Problem(400, "too-deep", "the body is nested too deeply", f"more than {DEEPEST} levels")
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "not-allowed", "the body has something that is not allowed", _in_words(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Problem(400, "no-json", "the body is no JSON") from None


def _in_words(error: msgspec.ValidationError) -> str:
    """Without the ``$.`` of a path, which says nothing to anybody."""
    return str(error).replace("`$.", "`").replace(" - at `$`", "")


async def _data(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MOST_BYTES:
                    raise Problem(
                        413, "too-large", "the body is too large", f"more than {MOST_BYTES} bytes",
                        headers={"Connection": "close"},
                    )  # fmt: skip
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(
            408, "too-slow", "the body did not come in time", f"{BODY_S:g} s", headers={"Connection": "close"}
        ) from None
    return b"".join(chunks)


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    within = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in within)


def number_in_query(request: Request, name: str, *, least: float, most: float) -> float | None:
    """Raises: Problem."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise Problem(
            422, "not-allowed", "the query has something that is not allowed", f"{name}: {least:g} to {most:g}"
        )
    return number
