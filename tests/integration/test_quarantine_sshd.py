"""Real SSH servers that are killed, come back and change their keys, under a real launcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.connecting import build_client_store
from nodelaunch.launcher import load_config
from nodelaunch.protocol.states import RequestState
from support.process import Serve, run
from support.sshd import Sshd, SshdFactory, sshd_factory  # noqa: F401  brings the fixture sshd

pytestmark = pytest.mark.sshd
DEADLINE_S = 240.0
CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: bare}}, {{name: other}}]
providers:
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes:
          - {{name: 127.0.0.1, connection-port: {port}, labels: [bare], host-key: '{key}', timeout: 3}}
          - {{name: 127.0.0.1, connection-port: {other}, labels: [other], timeout: 3}}
"""


def written(folder: Path, server: Sshd, other: Sshd) -> Path:
    """The configuration with the keys that *server* has now."""
    (key,) = server.host_keys
    path = folder / "nodelaunch.yaml"
    path.write_text(CONFIG.format(folder=folder, port=server.port, other=other.port, key=key))
    return path


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[Serve, NodeClient]]:
    serve = Serve(path)
    try:
        await asyncio.to_thread(serve.await_log, "pool_registered")
        async with build_client_store(load_config(path)) as store, NodeClient(store) as client:
            yield serve, client
    finally:
        await asyncio.to_thread(serve.kill)


async def explained(path: Path, request_id: str) -> str:
    done = await asyncio.to_thread(run, "explain", request_id, "-c", str(path))
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_server_that_is_killed_is_quarantined_and_returns(sshd: SshdFactory, tmp_path: Path) -> None:
    server, other = sshd(["ssh-ed25519"]), sshd(["ssh-ed25519"])
    await server.start()
    await other.start()
    path = written(tmp_path, server, other)
    async with asyncio.timeout(DEADLINE_S), serving(path) as (serve, client):
        await asyncio.to_thread(serve.await_log, "machine_registered", 2)
        await server.stop()
        waiting = await client.submit(["bare"])
        told = await asyncio.to_thread(serve.await_log, "machine_quarantined", port=server.port)
        assert told["cause"] == "unreachable"
        await asyncio.to_thread(serve.await_log, "machine_deregistered", hostname="127.0.0.1")
        text = await explained(path, waiting.id)
        assert "because no machine of label bare is free" in text
        assert f"because machine 127.0.0.1 (user zuul, port {server.port}) is in quarantine for " in text
        assert "the next check is in " in text
        request = await (await client.submit(["other"])).finished()
        assert request.state is RequestState.FULFILLED, "the other host is not concerned"
        await server.start()
        assert (await waiting.finished()).state is RequestState.FULFILLED
        await asyncio.to_thread(serve.await_log, "machine_returned", port=server.port)


async def test_server_whose_key_was_replaced_returns_when_it_is_configured(sshd: SshdFactory, tmp_path: Path) -> None:
    server, other = sshd(["ssh-ed25519"]), sshd(["ssh-ed25519"])
    await server.start()
    await other.start()
    path = written(tmp_path, server, other)
    async with asyncio.timeout(DEADLINE_S), serving(path) as (serve, client):
        await asyncio.to_thread(serve.await_log, "machine_registered", 2)
        await server.stop()
        server.replace_keys(["ssh-ed25519"])
        await server.start()
        request = await (await client.submit(["bare"])).finished()
        assert request.state is RequestState.FULFILLED, "a hand-out tries a connection, no key"
        async with client.hold(request):
            pass
        told = await asyncio.to_thread(serve.await_log, "machine_quarantined", port=server.port, cause="wrong key")
        assert "does not have the configured host key" in told["detail"]
        waiting = await client.submit(["bare"])
        text = await explained(path, waiting.id)
        assert "does not have the configured host key: expected ssh-ed25519 SHA256:" in text
        assert ", found ssh-ed25519 SHA256:" in text
        assert "to change that: compare the host keys and correct the wrong one" in text
        written(tmp_path, server, other)
        assert (await waiting.finished()).state is RequestState.FULFILLED
