"""Launchers as processes: how each is started, and the configuration they all read.

What does *not* belong here: the load (zuul.py, loads.py) and the measurements (subject.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.zk.server import BenchServer
from support.nodepool import installed

ROOT = Path(__file__).parents[1]
STOP_TIMEOUT_S = 10.0
NO_LIMIT = 100_000
"""Limit of servers of a pool, for cases that do not measure the limit."""
CLOUDS = """clouds:
  fake:
    auth: {username: fake, password: fake, project_id: fake, auth_url: fake}
    region_name: fake-region
"""


class LauncherEndedError(RuntimeError):
    """A launcher ended by itself; the message has the end of its log."""


@dataclass(frozen=True)
class Kind:
    """A launcher to measure. In *command*, ``{config}`` stands for the path of the configuration."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_nodepool: bool = False
    """True if the launcher supports only Nodepool's own keys."""


def nodelaunch() -> Kind:
    return Kind("nodelaunch", (sys.executable, "-m", "nodelaunch", *_SERVE), _python_path())


def with_metrics() -> Kind:
    """Return nodelaunch with its defaults, including HTTP on a free port and the metrics for it."""
    return Kind("metrics", (sys.executable, "-m", "nodelaunch", *_SERVE_HTTP), _python_path())


def profiled(output: Path) -> Kind:
    """Return nodelaunch under cProfile, which signals turn on and off; see profiled.py."""
    return Kind("profiled", (sys.executable, "-m", "bench.profiled", str(output), *_SERVE), _python_path())


def floor() -> Kind:
    return Kind("floor", (sys.executable, "-m", "bench.floor", "-c", "{config}"), _python_path())


def nodepool() -> Kind:
    """Return Nodepool 11.0.0 in its own environment, created if missing. Raises: PeerMissingError."""
    command = (str(installed() / "nodepool-launcher"), "-f", "--no-webapp", "-c", "{config}")
    return Kind("nodepool", command, {"PYTHONPATH": ""}, is_nodepool=True)


_SERVE_HTTP = ("serve", "--fake-hosts", "-c", "{config}")
_SERVE = (*_SERVE_HTTP, "--no-webapp")
KINDS: Mapping[str, Callable[[], Kind]] = {
    "nodelaunch": nodelaunch, "metrics": with_metrics, "floor": floor, "nodepool": nodepool,
}  # fmt: skip


def kind(text: str) -> Kind:
    """Return the launcher for *text*: one of KINDS, or ``name=command``. Raises: ValueError, PeerMissingError."""
    name, equals, command = text.partition("=")
    if equals:
        return Kind(name, tuple(shlex.split(command)), is_nodepool="nodepool-launcher" in command)
    if text not in KINDS:
        raise ValueError(f"no launcher {text!r}: name one of {', '.join(KINDS)}, or give NAME=COMMAND with {{config}}")
    return KINDS[text]()


def _python_path() -> dict[str, str]:
    """Return the environment with this project first, even if another checkout of it is installed."""
    given = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(ROOT / "tests"), given]).strip(os.pathsep)}


# -- configuration ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """The setup that a launcher serves: a number of providers with one pool each; all pools offer label ``label-0``."""

    pools: int = 1
    servers: int = NO_LIMIT
    """``max-servers`` of each pool."""
    driver: str = "test"
    boot_s: float = 0.0
    """Boot time of an instance of ``driver: fake``."""
    hosts: int = 0
    """Machines of ``driver: static``."""
    foreign_nodes: int = 0
    """Nodes in use of another launcher's provider, created before the launcher starts."""
    foreign_requests: int = 0
    """Fulfilled requests, created before the launcher starts."""
    launchers: int = 1
    """Number of processes; each has its own providers."""
    is_cloud_kept: bool = False
    """True if the cloud of ``driver: fake``, which records its whole history, keeps it in a file."""


LABEL = "label-0"


def config_of(setup: Setup, server: BenchServer, root: str, kind: Kind, number: int = 0) -> dict[str, Any]:
    """Return the configuration of process *number*."""
    files = server.zookeeper.certificates.client
    names = [f"provider-{number}-{count}" for count in range(setup.pools)]
    webapp = {} if kind.is_nodepool else {"webapp": {"port": 0, "listen_address": "127.0.0.1"}}
    return webapp | {
        "zookeeper-servers": [{"host": server.host, "port": server.tls_port, "chroot": root}],
        "zookeeper-tls": {"ca": files.ca, "cert": files.cert, "key": files.key},
        "labels": [{"name": LABEL}],
        "providers": [_PROVIDERS[setup.driver](setup, name, kind) for name in names],
    }


def _test_provider(setup: Setup, name: str, _kind: Kind) -> dict[str, Any]:
    pool = {"name": "main", "labels": [LABEL], "max-servers": setup.servers}
    return {"name": name, "driver": "test", "pools": [pool]}


def _fake_provider(setup: Setup, name: str, kind: Kind) -> dict[str, Any]:
    label = {"name": LABEL, "cloud-image": "image", "min-ram": 8192, "flavor-name": "Fake"}
    provider = {
        "name": name, "driver": "fake", "cloud": "fake", "region-name": "fake-region", "rate": 0.0001,
        "cloud-images": [{"name": "image", "image-name": "Fake Precise", "username": "zuul"}],
        "pools": [{"name": "main", "max-servers": setup.servers, "labels": [label]}],
    }  # fmt: skip
    own: dict[str, Any] = {
        "boot-time": setup.boot_s,
        "limits": {"max-servers": setup.servers, "max-cores": setup.servers * 100, "max-ram": setup.servers * 8192},
    }
    if setup.is_cloud_kept:
        own["cloud-file"] = f"{name}.sqlite"
    return provider if kind.is_nodepool else provider | own


def _static_provider(setup: Setup, name: str, _kind: Kind) -> dict[str, Any]:
    nodes = [
        {"name": f"fake-host-{count}", "labels": [LABEL], "username": "zuul", "host-key-checking": False}
        for count in range(setup.hosts)
    ]
    return {"name": name, "driver": "static", "pools": [{"name": "main", "nodes": nodes}]}


_PROVIDERS = {"test": _test_provider, "fake": _fake_provider, "static": _static_provider}


# -- processes --------------------------------------------------------------------------------------------------------


class Process:
    """A running launcher; its output goes to a log file in the folder of its configuration."""

    def __init__(self, kind: Kind, config: Mapping[str, Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path, clouds = folder / "nodepool.yaml", folder / "clouds.yaml"
        path.write_text(json.dumps(config, indent=1))
        clouds.write_text(CLOUDS)
        self.log = folder / "log"
        command = [part.replace("{config}", str(path)) for part in kind.command]
        environment = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(clouds), "HOME": str(folder), **kind.environment}
        self.started_at = time.monotonic()
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment, cwd=folder
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Check that the launcher runs. Raises: LauncherEndedError."""
        if (code := self._process.poll()) is not None:
            raise LauncherEndedError(f"the launcher ended with {code}: {self.log.read_text(errors='replace')[-2000:]}")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def stop(self) -> None:
        """Ask the launcher to end, then kill it."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def processes(kinds: Sequence[Kind], setup: Setup, server: BenchServer, root: str, folder: Path) -> list[Process]:
    """Start one process for each of *kinds*, in parallel."""
    return [
        Process(each, config_of(setup, server, root, each, number), folder / f"{each.name}-{number}")
        for number, each in enumerate(kinds)
    ]
