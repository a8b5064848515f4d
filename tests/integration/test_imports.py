"""Libraries and modules that commands do not import, because only other commands need them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.process import Serve, run
from support.zookeeper import ZooKeeperServer

TELLING = """
import json, sys
from nodelaunch.cli.main import main
code = main()
print(json.dumps({"event": "modules", "names": sorted(sys.modules)}), file=sys.stderr)
sys.exit(code)
"""
"""The command, which at its end logs the names of the modules it has imported."""
CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}, {{name: bare}}]
providers:
  - name: cloud
    driver: fake
    cloud-images: [{{name: image}}]
    pools: [{{name: main, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes: [{{name: fake-host, labels: [bare], host-key-checking: false, username: zuul}}]
"""
HEAVY = (
    "asyncssh", "cryptography", "openstack", "keystoneauth1", "requests", "urllib3", "jsonschema", "kazoo",
    "xml", "unittest", "pydoc", "pydantic.v1", "rich.live",
)  # fmt: skip
"""Libraries, and parts of them, with all below them."""
OWN = (
    "nodelaunch.network.sshclient", "nodelaunch.cli.demo", "nodelaunch.cli.driver", "nodelaunch.cli.lists",
    "nodelaunch.cli.fakecloud", "nodelaunch.drivers.openstack", "nodelaunch.drivers.garm",
    "nodelaunch.drivers.metastatic", "nodelaunch.driverhost.process", "nodelaunch.conformance",
    "nodelaunch.sdk", "nodelaunch.driverhost.wire.messages", "nodelaunch.driverhost.install.installer",
)  # fmt: skip


UNREAD = (
    *HEAVY, *OWN, "structlog", "rich", "pygments", "starlette", "uvicorn", "httpx", "prometheus_client", "prettytable",
    "statsd", "nodelaunch.launcher", "nodelaunch.web", "nodelaunch.drivers", "nodelaunch.engine.serve.scheduler",
    "nodelaunch.protocol.verdicts",
)  # fmt: skip
"""Modules that a command which only reads records does not import: scripts call `nodelaunch list` often."""
ZOOKEEPER, EMBEDDED = ("aiozk", "nodelaunch.store.zookeeper.store"), ("sqlite3", "nodelaunch.store.embedded.store")
"""Modules that only one of the two stores needs."""


def among(names: Collection[str], unwanted: Collection[str]) -> list[str]:
    """Return the *names* that are *unwanted*, or below an unwanted one."""
    return [name for name in names if any(f"{name}.".startswith(f"{each}.") for each in unwanted)]


def imported_by(*arguments: str) -> list[str]:
    """The names of the modules that the command has imported when it ends by itself."""
    code = "import sys; from nodelaunch.cli.main import main\ntry: main()\nfinally: print('MODULES', *sys.modules)"
    return python(code, *arguments).rpartition("MODULES ")[2].split()


def python(code: str, *arguments: str) -> str:
    """Return the output of *code*."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nodepool.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def test_serving_imports_only_what_its_providers_need(config: Path) -> None:
    """A launcher that has done its job once, with health asked for, holds none of the rest."""
    serve = Serve(config, python=("-c", TELLING))
    serve.await_log("pool_registered", count=2)
    assert run("request", "small", "-c", str(config)).returncode == 0
    assert run("request", "bare", "-c", str(config)).returncode == 0
    assert serve.get("/health/ready")[0] == 200
    assert serve.stop() == 0
    names = serve.await_log("modules")["names"]
    assert "nodelaunch.drivers.fake" in names
    assert among(names, (*HEAVY, *OWN)) == []


def test_help_and_version_import_no_command() -> None:
    for option in ("--help", "--version"):
        names = imported_by(option)
        assert "nodelaunch.cli.main" in names
        unwanted = (
            "aiozk",
            "msgspec",
            "pydantic",
            "ruamel",
            "nodelaunch.config",
            "nodelaunch.engine",
            "nodelaunch.store",
        )
        assert among(names, {*HEAVY, *OWN, *UNREAD, *unwanted} - {"rich", "pygments"}) == []


def test_list_imports_only_what_it_needs(config: Path) -> None:
    serve = Serve(config)
    serve.await_log("pool_registered", count=2)
    names = imported_by("list", "-c", str(config))
    assert serve.stop() == 0
    assert "nodelaunch.store.embedded.socket" in names
    assert among(names, ({*UNREAD, *ZOOKEEPER} - {"nodelaunch.cli.lists"})) == []


@pytest.mark.zookeeper
def test_list_on_zookeeper_imports_only_what_it_needs(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path
) -> None:
    config = tmp_path / "nodepool.yaml"
    server = {"host": "127.0.0.1", "port": zookeeper_server.port, "chroot": zk_chroot}
    config.write_text(json.dumps({"zookeeper-servers": [server]}))
    peer = zookeeper_server.kazoo()
    peer.ensure_path(f"{zk_chroot}/nodepool/nodes")
    peer.stop()
    peer.close()
    names = imported_by("list", "-c", str(config))
    assert "nodelaunch.store.zookeeper.store" in names
    assert among(names, ({*UNREAD, *EMBEDDED} - {"nodelaunch.cli.lists"})) == []


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, nodelaunch; print(*(name for name in sys.modules if name.startswith('nodelaunch')))"
    assert sorted(python(code).split()) == ["nodelaunch", "nodelaunch.errors"]


def test_unwanted_modules_exist() -> None:
    """Otherwise their absence would say nothing."""
    for name in (*UNREAD, *ZOOKEEPER, *EMBEDDED):
        assert find_spec(name) is not None, name
    assert among(["a", "a.b", "ab", "c.a"], ("a",)) == ["a", "a.b"]
