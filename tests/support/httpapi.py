"""A launcher with its HTTP interface behind a real server, on either store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Store
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from nodelaunch.web.api import Api
from nodelaunch.web.app import make_app
from nodelaunch.web.serving import serve
from support.zookeeper import ZooKeeperServer

TOKEN = "a-token-that-is-long-enough"
CONFIG = """
labels: [{{name: small}}, {{name: unoffered}}]
providers:
  - name: cloud
    driver: fake
    boot-time: {boot_time}
    delete-time: 0
    cloud-images: [{{name: image, username: zuul}}]
    pools:
      - name: main
        max-servers: {max_servers}
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""


@dataclass
class Site:
    """A launcher at work, and a client of its HTTP with a token."""

    launcher: Launcher
    http: httpx.AsyncClient
    url: str
    token_file: Path
    api: Api

    async def make(self, *labels: str, **options: Any) -> dict[str, Any]:
        reply = await self.http.post("/api/v1/requests", json={"labels": list(labels), **options})
        assert reply.status_code == 201, reply.text
        return reply.json()

    async def answered(self, request_id: str) -> dict[str, Any]:
        """The request once it does not wait for nodes any more."""
        reply = await self.http.get(f"/api/v1/requests/{request_id}", params={"wait_s": 30})
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def use(self, *labels: str, **options: Any) -> dict[str, Any]:
        answer = await self.answered((await self.make(*labels, **options))["id"])
        assert answer["state"] == "fulfilled", answer
        return answer

    async def until_no_nodes(self) -> None:
        await self.until(lambda: not self.launcher.view.nodes)

    async def until(self, holds: Any) -> None:
        changed = asyncio.Event()
        stop = self.launcher.view.subscribe(lambda _note: changed.set())
        try:
            async with asyncio.timeout(30):
                while not holds():
                    changed.clear()
                    await changed.wait()
        finally:
            stop()

    def states(self) -> list[NodeState]:
        return [seen.record.state for seen in self.launcher.view.nodes.values()]


def make_store(kind: str, server: ZooKeeperServer | None, chroot: str) -> Store:
    if kind == "embedded":
        return EmbeddedStore(None)
    assert server is not None
    return ZooKeeperStore([("127.0.0.1", server.port)], chroot=chroot, session_timeout_s=10.0)


@asynccontextmanager
async def site(
    folder: Path, store: Store, *, boot_time: float = 0, max_servers: int = 4, with_token: bool = True
) -> AsyncIterator[Site]:
    path = folder / "nodepool.yaml"
    path.write_text(CONFIG.format(boot_time=boot_time, max_servers=max_servers))
    token_file = folder / "token"
    token_file.write_text(f"# for tests\n{TOKEN}\n")
    async with AsyncExitStack() as stack:
        launcher = await stack.enter_async_context(Launcher(load_config(path), store=store))
        running = asyncio.ensure_future(launcher.run())

        async def stop() -> None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        stack.push_async_callback(stop)
        api = Api(launcher, token_file=str(token_file) if with_token else None)
        await stack.enter_async_context(api.open())
        port = await stack.enter_async_context(serve(make_app(launcher, api=api), host="127.0.0.1", port=0))
        url = f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=60))
        yield Site(launcher, http, url, token_file, api)
