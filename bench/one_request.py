"""How long a one-node request takes on a real ZooKeeper, beside a bare set and a bare create, and what it costs.

    PYTHONPATH=tests python bench/one_request.py [--count 200] [--tls]

Starts a ZooKeeper server (Debian package zookeeper) and ``nodelaunch serve`` with a fake cloud that boots at once, then
asks for one node at a time: submit, wait until fulfilled, lock, use, return, wait until it is gone. Times are the
client's. Operations are those the launcher counted itself from start to stop, pings left out.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

from nodelaunch.client import NodeClient
from nodelaunch.protocol import paths
from nodelaunch.store.zookeeper import ZooKeeperStore
from support.certificates import make_certificates
from support.process import Serve
from support.zookeeper import ZooKeeperServer

WARM_UP = 20
CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}}}]
{tls}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: node}}]
providers:
  - name: cloud
    driver: fake
    boot-time: 0
    cloud-images: [{{name: image}}]
    pools: [{{name: main, labels: [{{name: node, cloud-image: image, min-ram: 8192}}]}}]
"""


async def timed(call: object) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await call  # type: ignore[misc]
    return loop.time() - started


async def measure(server: ZooKeeperServer, serve: Serve, count: int, *, tls: bool) -> None:
    port, files = (server.tls_port, server.certificates.client) if tls else (server.port, None)
    await asyncio.to_thread(serve.await_log, "pool_registered")
    to_ready: list[float] = []
    sets: list[float] = []
    creates: list[float] = []
    async with ZooKeeperStore([(server.host, port)], tls=files) as store, NodeClient(store) as client:
        await store.create("/bench")
        async with store.tree(paths.NODES) as nodes:
            for number in range(-WARM_UP, count):
                if number == 0:
                    to_ready.clear()
                    sets.clear()
                    creates.clear()
                sets.append(await timed(store.put("/bench", b"x" * 500)))
                creates.append(await timed(store.create("/bench/n", b"x" * 500, sequence=True)))
                loop = asyncio.get_running_loop()
                started = loop.time()
                handle = await client.submit(["node"])
                request = await handle.finished()
                to_ready.append(loop.time() - started)
                async with client.hold(request):
                    pass
                gone = asyncio.Event()
                stop = nodes.subscribe(lambda _event, gone=gone: gone.set())
                while nodes.get(paths.node(request.nodes[0])) is not None:
                    await gone.wait()
                    gone.clear()
                stop()
    print_row("bare set", sets)
    print_row("bare create", creates)
    print_row("request to fulfilled", to_ready)
    ratio = statistics.median(to_ready) / statistics.median(creates)
    print(f"request / bare create, medians: {ratio:.1f}")
    await asyncio.to_thread(serve.stop)
    operations = serve.await_log("stopped")["store_operations"]
    operations.pop("ping", None)
    each = {name: round(number / (count + WARM_UP), 1) for name, number in sorted(operations.items())}
    print(
        f"operations of the launcher per request, whole life: {sum(operations.values()) / (count + WARM_UP):.1f} {each}"
    )


def print_row(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{name:<22} median {statistics.median(ordered) * 1e3:7.2f} ms   p99 {p99 * 1e3:7.2f} ms   n={len(ordered)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--tls", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        certificates = make_certificates(Path(folder) / "certificates")
        server = ZooKeeperServer(Path(folder) / "zookeeper", certificates)
        server.start()
        files = certificates.client
        tls = f"zookeeper-tls: {{cert: {files.cert}, key: {files.key}, ca: {files.ca}}}" if args.tls else ""
        port = server.tls_port if args.tls else server.port
        config = Path(folder) / "nodepool.yaml"
        config.write_text(CONFIG.format(host=server.host, port=port, tls=tls))
        serve = Serve(config)
        try:
            asyncio.run(measure(server, serve, args.count, tls=args.tls))
        finally:
            serve.kill()
            server.kill()


if __name__ == "__main__":
    main()
