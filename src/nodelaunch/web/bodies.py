"""Reads the input of a request: its body as JSON of one type, and the numbers in its query.

Size, depth and time to arrive are limited. messages.py has the types.
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
"""Time for a body to arrive."""

T = TypeVar("T")


async def read_body(request: Request, kind: type[T]) -> T:
    """Return the request's body; without a body, *kind* with its defaults. Raises: Problem."""
    data = await _data(request)
    if data and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "not-json", "the body has to be JSON", "send the header Content-Type: application/json")
    try:
        body: Any = msgspec.json.decode(data or b"{}")
        if _is_deeper(body, DEEPEST):
            raise Problem(400, "too-deep", "the body is nested too deeply", f"more than {DEEPEST} levels")
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "not-allowed", "the body has a value or key that is not allowed", _in_words(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Problem(400, "no-json", "the body is not valid JSON") from None


def _in_words(error: msgspec.ValidationError) -> str:
    """Return the error's text without the ``$.`` before its path."""
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
            408, "too-slow", "the body did not arrive in time", f"{BODY_S:g} s", headers={"Connection": "close"}
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
        raise Problem(422, "not-allowed", "the query has a value that is not allowed", f"{name}: {least:g} to {most:g}")
    return number
