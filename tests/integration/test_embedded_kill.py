"""The embedded store keeps what it acknowledged when its process is killed."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

from nodelaunch.store.embedded.store import EmbeddedStore

WRITER = """
import asyncio, sys
from pathlib import Path
from nodelaunch.protocol.store import Create, Put
from nodelaunch.store.embedded.store import EmbeddedStore

async def write(store, name):
    number = 0
    while True:
        number += 1
        data = str(number).encode()
        puts = [Put(f"/{name}/a", data), Put(f"/{name}/b", data)]
        await store.commit([*puts, Create(f"/{name}/n", data, sequence=True)])
        print(name, number, flush=True)

async def main():
    async with EmbeddedStore(Path(sys.argv[1])) as store:
        await store.create("/alive", b"", ephemeral=True)
        for name in ("x", "y", "z"):
            await store.ensure(f"/{name}/a", f"/{name}/b")
        await asyncio.gather(*(write(store, name) for name in ("x", "y", "z")))

asyncio.run(main())
"""
ROUNDS = 5


async def test_nothing_acknowledged_is_lost_and_nothing_is_half_done(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    rng = random.Random(3)
    acknowledged: dict[str, int] = {}
    for _ in range(ROUNDS):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged.clear()
            for _ in range(rng.randrange(20, 300)):
                name, number = (await asyncio.to_thread(writer.stdout.readline)).split()
                acknowledged[name] = int(number)
            writer.kill()
            for line in writer.stdout:
                if line.endswith("\n"):
                    acknowledged[line.split()[0]] = int(line.split()[1])
        async with EmbeddedStore(path) as store:
            assert await store.get_many(["/alive"]) == [None]
            for name, number in acknowledged.items():
                a, b = [entry.data if entry else b"" for entry in await store.get_many([f"/{name}/a", f"/{name}/b"])]
                assert a == b
                assert int(a) in (number, number + 1)  # one more may have been done, its answer not printed
                newest = (await store.children(f"/{name}"))[-1]
                assert (await store.get(f"/{name}/{newest}")).data == a
