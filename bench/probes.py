"""Measurements that need no launcher under load: starts of the command, host-key scans, the embedded store."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.launchers import ROOT
from bench.loads import spread_ms
from bench.results import Row
from nodelaunch.network.sshscan import SshScanner
from support.sshd import Sshd, why_no_sshd

Probe = Callable[[Path, bool], Iterable[Row]]
"""Given a folder to work in and whether to be quick; rows with ``case``, ``launcher`` and figures."""
SCAN_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0
CONFIG = {
    "zookeeper-servers": [{"host": "127.0.0.1", "port": 2181}],
    "labels": [{"name": "small"}],
    "providers": [
        {"name": f"provider-{number}", "driver": "test", "pools": [{"name": "main", "labels": ["small"]}]}
        for number in range(50)
    ],
}


def command_starts(folder: Path, is_quick: bool) -> Iterator[Row]:
    """Wall and CPU time of commands that only read, and of Python itself as their floor."""
    config = folder / "nodepool.yaml"
    config.write_text(json.dumps(CONFIG))
    commands = {
        "python": ("-c", "pass"),
        "help": ("-m", "nodelaunch", "--help"),
        "config-check": ("-m", "nodelaunch", "config", "check", str(config)),
    }
    for _ in range(2 if is_quick else 20):
        for case, arguments in commands.items():
            wall_s, cpu_s = _timed(arguments)
            yield {
                "case": case,
                "launcher": "nodelaunch",
                "wall_ms": round(1e3 * wall_s, 1),
                "cpu_ms": round(1e3 * cpu_s, 1),
            }


def _timed(arguments: Sequence[str]) -> tuple[float, float]:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def host_key_scans(folder: Path, is_quick: bool) -> Iterator[Row]:
    """Scans of a real sshd by the launcher's scanner, one and ten at a time."""
    if reason := why_no_sshd():
        yield {"case": "scan", "launcher": "nodelaunch", "error": reason}
        return
    for number in range(1 if is_quick else 5):
        home = folder / f"sshd-{number}"
        home.mkdir()
        for at_once in (1, 10):
            yield asyncio.run(_scanned(home, at_once, 10 if is_quick else 50))


async def _scanned(home: Path, at_once: int, count: int) -> Row:
    scanner, took_s = SshScanner(), list[float]()
    server = Sshd(home, max_startups="100")
    await server.start()
    try:
        await scanner.host_keys(server.host, server.port, timeout_s=SCAN_TIMEOUT_S)
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                began = time.perf_counter()
                await scanner.host_keys(server.host, server.port, timeout_s=SCAN_TIMEOUT_S)
                took_s.append(time.perf_counter() - began)

        cpu_s, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        wall_s = time.perf_counter() - began
        cpu_ms = 1e3 * (time.process_time() - cpu_s) / count
    finally:
        await server.aclose()
    return {
        "case": f"scan-{at_once}", "launcher": "nodelaunch", **spread_ms("scan", took_s),
        "cpu_ms_per_scan": round(cpu_ms, 2), "scans_per_s": round(count / wall_s, 1),
    }  # fmt: skip


def embedded_store(folder: Path, is_quick: bool) -> Iterable[Row]:
    """Return the measurements of function ``rows`` of bench/embedded.py: launcher and client in one process."""
    if importlib.util.find_spec("bench.embedded") is not None:
        rows: Probe | None = getattr(importlib.import_module("bench.embedded"), "rows", None)
        if rows is not None:
            return rows(folder, is_quick)
    return [{"case": "embedded", "launcher": "nodelaunch", "error": "bench/embedded.py has no function 'rows'"}]


PROBES: Mapping[str, Probe] = {"command": command_starts, "scan": host_key_scans, "embedded": embedded_store}
