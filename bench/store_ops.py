"""CPU time per store operation: ours beside plain aiozk and kazoo, in one run, on one server, in plaintext.

    PYTHONPATH=tests python bench/store_ops.py [--count 2000] [--rounds 3]

Each client does *count* operations at 1 and at 100 concurrent calls, the clients taking turns for *rounds* rounds; the
best round counts. CPU is this process's own, the server's is not in it. aiozk has no TLS, so none is used.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiozk
import structlog
from kazoo.client import KazooClient

from nodelaunch.store.zookeeper.store import ZooKeeperStore
from support.certificates import make_certificates
from support.zookeeper import ZooKeeperServer

Operation = Callable[[int], Awaitable[object]]
DATA = b"x" * 1000


async def spread(operation: Operation, count: int, concurrent: int) -> float:
    """Seconds of CPU per operation."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await operation(number)

    started = time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrent)))
    return (time.process_time() - started) / count


def spread_threads(operation: Callable[[int], object], count: int, concurrent: int) -> float:
    """The same for kazoo: 100 concurrent calls are its own asynchronous ones."""
    started = time.process_time()
    if concurrent == 1:
        for number in range(count):
            operation(number)
    else:
        with ThreadPoolExecutor(concurrent) as pool:
            list(pool.map(operation, range(count)))
    return (time.process_time() - started) / count


async def measure(server: ZooKeeperServer, count: int, rounds: int) -> dict[tuple[str, int, str], float]:
    best: dict[tuple[str, int, str], float] = {}
    address = f"{server.host}:{server.port}"
    kazoo = KazooClient(hosts=address)
    await asyncio.to_thread(kazoo.start)
    plain = aiozk.ZKClient(address)
    await plain.start()
    async with ZooKeeperStore([(server.host, server.port)]) as store:
        for name in ("nodelaunch", "aiozk", "kazoo"):
            await store.create(f"/{name}/data", DATA, parents=True)
        ours: dict[str, Operation] = {
            "get": lambda _n: store.get("/nodelaunch/data"),
            "set": lambda _n: store.put("/nodelaunch/data", DATA),
            "create": lambda _n: store.create("/nodelaunch/n", DATA, sequence=True),
        }
        theirs: dict[str, Operation] = {
            "get": lambda _n: plain.get_data("/aiozk/data"),
            "set": lambda _n: plain.set_data("/aiozk/data", DATA, force=True),
            "create": lambda _n: plain.create("/aiozk/n", DATA, sequential=True),
        }
        threads: dict[str, Callable[[int], object]] = {
            "get": lambda _n: kazoo.get("/kazoo/data"),
            "set": lambda _n: kazoo.set("/kazoo/data", DATA),
            "create": lambda _n: kazoo.create("/kazoo/n", DATA, sequence=True),
        }
        for _ in range(rounds):
            for concurrent in (1, 100):
                for kind in ("get", "set", "create"):
                    results = {
                        "nodelaunch": await spread(ours[kind], count, concurrent),
                        "aiozk": await spread(theirs[kind], count, concurrent),
                        "kazoo": await asyncio.to_thread(spread_threads, threads[kind], count, concurrent),
                    }
                    for name, seconds in results.items():
                        key = (kind, concurrent, name)
                        best[key] = min(best.get(key, seconds), seconds)
    await plain.close()
    kazoo.stop()
    kazoo.close()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        server = ZooKeeperServer(Path(folder) / "zookeeper", make_certificates(Path(folder) / "certificates"))
        server.start()
        try:
            best = asyncio.run(measure(server, args.count, args.rounds))
        finally:
            server.kill()
    print("CPU per operation, µs")
    print(f"{'':<8}{'at once':>8}{'nodelaunch':>12}{'aiozk':>8}{'kazoo':>8}{'aiozk/ours':>12}{'kazoo/ours':>12}")
    for kind in ("get", "set", "create"):
        for concurrent in (1, 100):
            ours, plain, threads = (best[kind, concurrent, name] * 1e6 for name in ("nodelaunch", "aiozk", "kazoo"))
            print(
                f"{kind:<8}{concurrent:>8}{ours:>12.0f}{plain:>8.0f}{threads:>8.0f}"
                f"{plain / ours:>12.1f}{threads / ours:>12.1f}"
            )


if __name__ == "__main__":
    main()
