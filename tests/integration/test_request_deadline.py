"""``nodelaunch request --timeout`` ends when its time is over, no matter which part does not answer, and names that
part.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.web.serving import serve
from support.httpapi import TOKEN
from support.zookeeper import ZooKeeperServer

PROBLEM = b'{"type": "urn:nodelaunch:problem:store", "title": "the store did not do it", "detail": "it is away"}'
TIMEOUT = "6"
"""Seconds; enough to come to the first question on a busy machine."""
LONG_S = 25
"""Shorter than the time for which a question is asked again."""


async def command(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the command, which has to end soon."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodelaunch", *arguments, env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, errors = await asyncio.wait_for(process.communicate(), LONG_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, errors.decode()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    made = tmp_path / "a-token"
    made.write_text(f"{TOKEN}\n")
    return made


@asynccontextmanager
async def launcher_without_a_store(*, taken: int) -> AsyncIterator[str]:
    """The URL of what takes that many requests, and then answers nothing but that its store is away."""
    made = 0

    async def answer(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        nonlocal made
        while (await receive()).get("more_body"):
            pass
        status, kind, body = 503, b"application/problem+json", PROBLEM
        if scope["method"] == "POST" and scope["path"].endswith("/requests") and made < taken:
            made += 1
            status, kind, body = 201, b"application/json", SHOWN % made
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": body})

    async with serve(answer, host="127.0.0.1", port=0) as port:
        yield f"http://127.0.0.1:{port}"


SHOWN = (
    b'{"id": "200-000000000%d", "state": "requested", "version": 1, "labels": ["small"], "priority": "200", '
    b'"relative_priority": 0, "provider": null, "tenant": null, "requestor": "me", "ttl_s": 60, "expires_in_s": 60, '
    b'"declined_by": [], "nodes": [], "detail": null}'
)


async def test_request_that_can_not_be_made_over_http(token_file: Path) -> None:
    async with launcher_without_a_store(taken=0) as url:
        code, errors = await command(
            "request", "small", "--url", url, "--token-file", str(token_file), "--timeout", TIMEOUT
        )
    assert code == 1
    assert f"nodelaunch: the requests could not be submitted within {TIMEOUT} s" in errors
    assert "the store did not do it: it is away (HTTP 503)" in errors


async def test_request_that_was_made_over_http_before_the_store_went_away(token_file: Path) -> None:
    async with launcher_without_a_store(taken=2) as url:
        code, errors = await command(
            "request", "small", "--count", "2", "--url", url, "--token-file", str(token_file), "--timeout", TIMEOUT
        )
    assert code == 1
    for number in (1, 2):
        assert f"node request 200-000000000{number} (small) was not fulfilled within {TIMEOUT} s" in errors
    assert "the store did not do it: it is away (HTTP 503)" in errors


@pytest.mark.zookeeper
async def test_store_that_does_not_answer(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> None:
    config = tmp_path / "nodepool.yaml"
    config.write_text(f"zookeeper-servers: [{{host: 127.0.0.1, port: {zookeeper_server.port}, chroot: {zk_chroot}}}]\n")
    zookeeper_server.freeze()
    try:
        code, errors = await command("request", "small", "-c", str(config), "--timeout", "1")
    finally:
        zookeeper_server.thaw()
    assert code == 1
    assert "no session within 1 s" in errors
