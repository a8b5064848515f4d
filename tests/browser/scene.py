"""A launcher with much to show, and a browser that looks at its page."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from nodelaunch.client.nodes import NodeClient
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol import paths
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.web.app import make_app
from nodelaunch.web.serving import serve

CHROMIUM = os.environ.get("NODELAUNCH_CHROMIUM") or shutil.which("chromium")
SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
CONFIG = """
webapp: {port: 0, listen_address: 127.0.0.1}
labels: [{name: debian-12}, {name: fedora-41}, {name: arm-lab}]
tenant-resource-limits: [{tenant-name: acme, max-servers: 20}]
providers:
  - name: north
    driver: fake
    boot-time: 0.3
    cloud-images: [{name: image}]
    pools:
      - name: main
        max-servers: 12
        labels:
          - {name: debian-12, cloud-image: image, min-ram: 8192}
          - {name: fedora-41, cloud-image: image, min-ram: 8192}
      - name: spare
        max-servers: 2
        labels: [{name: debian-12, cloud-image: image, min-ram: 8192}]
  - name: lab
    driver: fake
    boot-time: 0.5
    limits: {max-servers: 0}
    cloud-images: [{name: image}]
    pools:
      - name: benches
        max-servers: 4
        labels: [{name: arm-lab, cloud-image: image, min-ram: 8192}]
"""
STATES = ("ready", "in-use", "in-use", "in-use", "in-use", "building", "hold", "ready")
"""States of the nodes of another launcher's provider."""
ZUUL = {"job_name": "unit-tests", "pipeline_name": "check", "build_set_uuid": "5f0c"}


@dataclass
class Scene:
    """A launcher's page, and a client of its store."""

    address: str
    client: NodeClient


@asynccontextmanager
async def shown(nodes: int) -> AsyncIterator[Scene]:
    """A launcher; *nodes* is how many there are. Without any, nothing waits either."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nodepool.yaml"
        path.write_text(CONFIG)
        async with EmbeddedStore(None) as store:
            await store.ensure(*paths.ALWAYS_THERE)
            for number in range(max(0, nodes - 10)):
                await store.create(paths.NEW_NODE, _node(number), sequence=True)
            async with Launcher(load_config(path), store=store.connect(), hostname="launcher-1") as launcher:
                running = asyncio.ensure_future(launcher.run())
                async with (
                    serve(make_app(launcher), host="127.0.0.1", port=0) as port,
                    store.connect() as session,
                    NodeClient(session, requestor="zuul-1") as client,
                ):
                    if nodes:
                        await _work(launcher, client)
                    yield Scene(f"http://127.0.0.1:{port}/", client)
                    launcher.events.close()
                running.cancel()
                await asyncio.wait([running])


def _node(number: int) -> bytes:
    return json.dumps({
        "state": STATES[number % len(STATES)], "state_time": 1.7e9 + number, "created_time": 1.7e9, "provider": "south",
        "pool": "main", "type": ["debian-12"], "external_id": f"vm-{number}", "interface_ip": f"10.0.{number % 250}.7",
        "comment": "to be looked at" if STATES[number % len(STATES)] == "hold" else None,
    }).encode()  # fmt: skip


async def _work(launcher: Launcher, client: NodeClient) -> None:
    """Have ten nodes launched, and some requests that wait for capacity."""
    async with asyncio.timeout(60):
        done = [await client.submit(["debian-12"] * 2, requestor_data=ZUUL) for _ in range(4)]
        done.append(await client.submit(["fedora-41"] * 2))
        for handle in done:
            await handle.finished()
        for labels in (["debian-12"] * 9, ["fedora-41"] * 4, ["arm-lab"]):
            await client.submit(labels, requestor_data=ZUUL)
        changed = asyncio.Event()
        stop = launcher.view.subscribe(lambda _note: changed.set())
        while len(launcher.view.requests) < 8:
            changed.clear()
            await changed.wait()
        stop()


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Debian's Chromium, without a window."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser,
    address: str,
    *,
    width: int = 1280,
    height: int = 900,
    is_dark: bool = False,
    allows_scripts: bool = False,
) -> AsyncIterator[Page]:
    """Open the page and yield it once it has shown all data; its console messages are errors. *allows_scripts*:
    whether foreign scripts may run in it, against its policy.
    """
    page = await browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if is_dark else "light",
        bypass_csp=allows_scripts,
    )
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    await page.goto(address)
    await page.wait_for_selector("#numbers dd", timeout=20_000)
    yield page
    assert complaints == []
    await page.close()
