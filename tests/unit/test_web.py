"""The health pages, over real connections on loopback and by their replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nodelaunch.web import http
from nodelaunch.web.app import make_pages, serve
from nodelaunch.web.http import Pages, answer

DEADLINE_S = 10.0
HOST = "127.0.0.1"


def pages(*reasons: str) -> Pages:
    return make_pages(lambda: list(reasons))


def get(target: str, of: Pages, method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    head, _, body = answer(f"{method} {target} HTTP/1.1\r\nHost: here".encode(), of).decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


@asynccontextmanager
async def connected(of: Pages) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(DEADLINE_S), serve(of, host=HOST, port=0) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            yield reader, writer
        finally:
            writer.close()


def test_a_launcher_that_can_work_is_ready() -> None:
    for path in ("/health/live", "/health/ready", "/ready"):
        assert get(path, pages()) == (200, "OK\n")


def test_a_launcher_that_can_not_work_says_why_and_is_live() -> None:
    of = pages("draining", "store: größer")
    assert get("/health/live", of) == (200, "OK\n")
    for path in ("/health/ready", "/ready"):
        assert get(path, of) == (503, "draining\nstore: größer\n")


def test_readiness_is_asked_each_time() -> None:
    reasons = ["draining"]
    of = make_pages(lambda: reasons)
    assert get("/ready", of)[0] == 503
    reasons.clear()
    assert get("/ready", of)[0] == 200


@pytest.mark.parametrize("target", ["/ready?verbose=1", "http://launcher:8005/ready"])
def test_query_and_host_of_a_target_do_not_matter(target: str) -> None:
    assert get(target, pages()) == (200, "OK\n")


@pytest.mark.parametrize("target", ["/", "/metrics", "ready", "http://[", "*", "/reaÐy"])
def test_other_targets_are_not_found(target: str) -> None:
    status, text = get(target, pages())
    assert status == 404
    assert "/health/ready" in text


def test_head_has_the_length_but_no_body() -> None:
    reply = answer(b"HEAD /ready HTTP/1.0", pages()).decode()
    assert "Content-Length: 3\r\n" in reply
    assert reply.endswith("\r\n\r\n")


def test_other_methods_are_told_which_will_do() -> None:
    reply = answer(b"POST /ready HTTP/1.1", pages()).decode()
    assert reply.startswith("HTTP/1.1 405 Method Not Allowed\r\n")
    assert "\r\nAllow: GET, HEAD\r\n" in reply


@pytest.mark.parametrize(
    "line", [b"", b"GET", b"GET /ready", b"GET /ready HTTP/2.0", b"\x16\x03\x01\x02", b"\xff \xff"]
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    assert answer(line, pages()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("request_", [b"\r\nGET /ready HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /ready HTTP/1.0\n\n"])
async def test_a_request_in_single_bytes_is_answered_and_the_connection_closed(request_: bytes) -> None:
    async with connected(pages()) as (reader, writer):
        for number in request_:
            writer.write(bytes([number]))
            await writer.drain()
        reply = (await reader.read()).decode()
    assert reply.startswith("HTTP/1.1 200 OK\r\n")
    assert "\r\nConnection: close\r\n" in reply
    assert reply.endswith("\r\n\r\nOK\n")


async def test_a_request_without_end_is_refused() -> None:
    async with connected(pages()) as (reader, writer):
        writer.write(b"GET /ready HTTP/1.1\r\nX: " + b"x" * http.MAX_HEAD_BYTES)
        assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")


async def test_a_client_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "EXCHANGE_TIMEOUT_S", 0.01)
    async with connected(pages()) as (reader, _):
        assert await reader.read() == b""


async def test_the_end_cuts_off_whoever_is_connected() -> None:
    async with asyncio.timeout(DEADLINE_S):
        async with serve(pages(), host=HOST, port=0) as port:
            reader, writer = await asyncio.open_connection(HOST, port)
            later, asking = await asyncio.open_connection(HOST, port)
            asking.write(b"GET /ready HTTP/1.1\r\n\r\n")
            assert await later.read()
            asking.close()
        assert await reader.read() == b""
        writer.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(HOST, port)
