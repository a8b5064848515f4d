"""The client of the HTTP interface, and ``nodelaunch request --url``, against a real server on both stores."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from nodelaunch import HttpNodeClient
from nodelaunch.errors import NodelaunchError, NodesLostError, RecordGoneError, RequestFailedError
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.web import client as module
from nodelaunch.web.client import HttpError
from support.httpapi import TOKEN, Site, make_store, site

STORES = ["embedded", pytest.param("zookeeper", marks=pytest.mark.zookeeper)]


@pytest.fixture(params=STORES)
async def here(request: pytest.FixtureRequest, tmp_path: Path, zk_chroot: str) -> AsyncIterator[Site]:
    server = request.getfixturevalue("zookeeper_server") if request.param == "zookeeper" else None
    async with asyncio.timeout(120), site(tmp_path, make_store(request.param, server, zk_chroot)) as made:
        yield made


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Site]:
    async with asyncio.timeout(120), site(tmp_path, EmbeddedStore(None), max_servers=1) as made:
        yield made


def client_of(where: Site, **options: object) -> HttpNodeClient:
    return HttpNodeClient(where.url, token_file=where.token_file, **options)  # type: ignore[arg-type]


async def test_nodes_are_in_use_inside_the_block(here: Site) -> None:
    async with client_of(here, requestor="me") as client:
        async with client.nodes(["small", "small"], tenant="t") as nodes:
            assert here.states() == [NodeState.IN_USE] * 2
            assert [node.type for node in nodes] == [("small",), ("small",)]
            assert nodes[0].interface_ip
            records = {seen.record.id: seen.record for seen in here.launcher.view.nodes.values()}
            assert {records[node.id].requestor for node in nodes} == {"me"}
            assert nodes[0].host_keys == records[nodes[0].id].host_keys
        await here.until_no_nodes()


async def test_request_that_nobody_can_serve(here: Site) -> None:
    async with client_of(here) as client:
        with pytest.raises(RequestFailedError):
            async with client.nodes(["unoffered"]):
                pass
    await here.until(lambda: not here.launcher.view.requests)


async def test_nodes_are_renewed_while_they_are_used(small: Site) -> None:
    async with client_of(small, ttl_s=1.0) as client, client.nodes(["small"]) as (node,):
        (rental,) = small.api._rentals.rentals  # type: ignore[union-attr]
        renewed, extend = asyncio.Event(), rental.last_until

        def last_until(deadline: float) -> None:
            extend(deadline)
            renewed.set()

        rental.last_until = last_until  # type: ignore[method-assign]
        for _ in range(4):  # longer than it lasts without being renewed
            renewed.clear()
            await renewed.wait()
        assert small.states() == [NodeState.IN_USE]
        assert small.launcher.view.node(node.id) is not None


async def test_block_is_cancelled_when_the_launcher_takes_the_nodes_back(small: Site) -> None:
    async with client_of(small, ttl_s=1.0) as client:
        with pytest.raises(NodesLostError):  # noqa: PT012
            async with client.nodes(["small"]):
                (rental,) = small.api._rentals.rentals  # type: ignore[union-attr]
                await small.api._rentals.release(rental)  # type: ignore[union-attr]
                await asyncio.Event().wait()


async def test_block_is_cancelled_when_the_launcher_can_not_be_reached(small: Site) -> None:
    class Cut(httpx.AsyncHTTPTransport):
        is_cut = False

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if self.is_cut:
                raise httpx.ConnectError("cut")
            return await super().handle_async_request(request)

    transport = Cut()
    async with client_of(small, ttl_s=1.0, transport=transport) as client:
        with pytest.raises(NodesLostError):  # noqa: PT012
            async with client.nodes(["small"]):
                transport.is_cut = True
                try:
                    await asyncio.Event().wait()
                finally:
                    transport.is_cut = False


async def test_answers_that_get_lost_are_asked_for_again_and_make_nothing_twice(small: Site) -> None:
    class Lossy(httpx.AsyncHTTPTransport):
        lost = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            if request.method == "POST" and self.lost < 2:
                self.lost += 1
                await answer.aread()
                await answer.aclose()
                raise httpx.ReadError("the connection broke")
            return answer

    transport = Lossy()
    async with client_of(small, transport=transport) as client, client.nodes(["small"]):
        assert transport.lost == 2
        assert len(small.api._rentals.rentals) == 1  # type: ignore[union-attr]


async def test_request_that_was_lost_is_told(small: Site) -> None:
    async with client_of(small) as client, client.nodes(["small"]):
        handle = await client.submit(["small"])
        await small.launcher.store.delete(f"/nodepool/requests/{handle.id}")
        with pytest.raises(RecordGoneError, match="lost"):
            await handle.finished()


async def test_request_is_given_back_when_who_waits_is_cancelled(small: Site) -> None:
    async with client_of(small) as client, client.nodes(["small"]):
        handle = await client.submit(["small"])
        with pytest.raises(TimeoutError):  # noqa: PT012
            async with asyncio.timeout(0.2):
                try:
                    await handle.finished()
                finally:
                    await handle.cancel()
        await small.until(lambda: len(small.launcher.view.requests) == 0)


async def test_closing_gives_everything_back(small: Site) -> None:
    async with client_of(small) as client:
        handle = await client.submit(["small"])
        assert (await handle.finished()).state is RequestState.FULFILLED
    await small.until_no_nodes()


async def test_refusals_say_what_is_wrong(small: Site, tmp_path: Path) -> None:
    async with HttpNodeClient(small.url, token="another-token-that-is-wrong") as client:
        with pytest.raises(HttpError, match=r"not one of this launcher's \(HTTP 401\)") as caught:
            await client.submit(["small"])
        assert caught.value.name == "token-wrong"
        assert "another" not in str(caught.value) + repr(client)
    async with client_of(small) as client:
        with pytest.raises(HttpError, match="labels"):
            await client.submit([])
    with pytest.raises(NodelaunchError, match="can't be read: No such file"):
        HttpNodeClient(small.url, token_file=tmp_path / "none")
    with pytest.raises(ValueError, match="one of token and token_file"):
        HttpNodeClient(small.url)


async def test_launcher_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.3)
    async with HttpNodeClient("http://127.0.0.1:1", token=TOKEN) as client:
        with pytest.raises(HttpError, match=r"127\.0\.0\.1:1"):
            await client.submit(["small"])


# -- the command ----------------------------------------------------------------------------------------------------


async def command(*arguments: str, **environ: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodelaunch", *arguments, env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def test_request_command_over_http(here: Site) -> None:
    code, out, errors = await command(
        "request", "small", "small", "--json", "--url", here.url, "--token-file", str(here.token_file)
    )
    assert code == 0, errors
    ((found,),) = [json.loads(out)]
    assert [node["label"] for node in found["nodes"]] == ["small", "small"]
    assert {"interface_ip", "connection_port", "connection_type", "username", "host_keys"} <= found["nodes"][0].keys()
    await here.until_no_nodes()


async def test_request_command_takes_its_options_from_the_environment(small: Site) -> None:
    environ = {"NODELAUNCH_URL": small.url, "NODELAUNCH_TOKEN_FILE": str(small.token_file)}
    code, out, errors = await command("request", "small", **environ)
    assert code == 0, errors
    assert "label=small" in out
    code, _, errors = await command("request", "unoffered", **environ)
    assert code == 1
    assert "declined by" in errors
    code, _, errors = await command("request", "small", "--url", small.url)
    assert code == 1
    assert "--token-file" in errors


@pytest.mark.parametrize("url", ["ftp://here", "127.0.0.1:8005", "here", "http://", "http://[::1"])
def test_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(NodelaunchError, match=r"is expected, such as|nvalid"):
        HttpNodeClient(url, token=TOKEN)
