"""Secrets of a configuration are visible nowhere while a launcher works and fails: logs in both formats, records in
both stores, command lines of processes, HTTP, and the output of commands.

Private host keys that servers are given need a cloud: tests/real_openstack/test_guests.py.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from nodelaunch.launcher import load_config
from support.process import Serve, run
from support.processes import EXAMPLES, children_of
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.long
SECRETS = {
    name: f"{name.lower().replace('_', '-')}-48151623"
    for name in (
        "ZOOKEEPER", "IMAGE_TOKEN", "INLINE_PASSWORD", "INLINE_TOKEN", "PROCESS_PASSWORD", "PROCESS_NESTED",
        "LABEL_PIN", "CLOUD_TOKEN",
    )
}  # fmt: skip
"""A secret for each place that has any; the last is a variable that ``pass-environment`` passes on."""
CONFIG = """
{store}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: inline}}, {{name: process}}]
diskimages: [{{name: image, env-vars: {{TOKEN: {IMAGE_TOKEN}}}}}]
providers:
  - name: leaky
    driver: leaky
    launch-retries: 1
    password: {INLINE_PASSWORD}
    tokens: {{api: {INLINE_TOKEN}}}
    pools: [{{name: main, labels: [{{name: inline}}]}}]
  - name: talkative
    driver: talkative
    launch-retries: 1
    password: {PROCESS_PASSWORD}
    login: {{token: {PROCESS_NESTED}}}
    pass-environment: [CLOUD_TOKEN]
    pools: [{{name: main, labels: [{{name: process, pin: {LABEL_PIN}}}]}}]
"""
ENTRY_POINTS = "[nodelaunch.drivers]\nleaky = leaky:PLUGIN\n"
LEAKY = '''
from pydantic import Field, SecretStr

from nodelaunch.config.models import TOP_LABELS, LabelConfig, LaunchingProviderConfig, PoolConfig, Reference
from nodelaunch.drivers import DriverPlugin
from nodelaunch.drivers.test.driver import TestDriver


class Pool(PoolConfig):
    labels: tuple[LabelConfig, ...] = ()

    @property
    def label_names(self):
        return tuple(label.name for label in self.labels)


class Provider(LaunchingProviderConfig):
    must_exist = (Reference("label", "pools[].labels[].name", TOP_LABELS),)
    password: SecretStr
    tokens: dict[str, SecretStr] = Field(default_factory=dict)
    pools: tuple[Pool, ...] = ()


class Leaky(TestDriver):
    """Fails as nobody foresaw, wherever it is called, with secrets in the variables of every frame."""

    def log_in(self):
        password, tokens = self._config.password.get_secret_value(), [
            token.get_secret_value() for token in self._config.tokens.values()
        ]
        headers = {"Authorization": password, "X-Tokens": tokens}
        try:
            return headers["Session"]
        except KeyError as error:
            raise ZeroDivisionError("nobody foresaw this") from error

    failed = False

    async def create_instance(self, spec):
        self.failed = True
        password = self._config.password.get_secret_value()
        return self.log_in() or password

    async def list_instances(self):
        if self.failed:
            self.log_in()
        for instance in ():
            yield instance


PLUGIN = DriverPlugin("leaky", Provider, Leaky)
'''
TALKATIVE = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(EXAMPLES)!r})
import nodelaunch_driver as sdk

SECRET = {{"type": "string", "writeOnly": True}}


class Talkative(sdk.Driver):
    name = "talkative"
    schemas = {{
        "provider": {{"properties": {{"password": SECRET, "login": {{"properties": {{"token": SECRET}}}}}}}},
        "label": {{"properties": {{"pin": SECRET}}}},
    }}

    def secrets(self):
        label = self.config["pools"][0]["labels"][0]
        login = self.config["login"]["token"]
        return " ".join([self.config["password"], login, label["pin"], os.environ["CLOUD_TOKEN"]])

    def limits(self):
        print("printed", self.secrets(), flush=True)
        print("warned", self.secrets(), file=sys.stderr, flush=True)
        self.log("logged " + self.secrets(), nested=[{{"key": self.secrets()}}])
        return {{}}

    def usage(self, pool, label):
        return {{}}

    def ready(self, pool, label):
        return True

    def list(self):
        return []

    def create(self, spec):
        secrets = self.secrets()
        self.progress("made " + secrets)
        raise ValueError("unforeseen " + secrets)

    def delete(self, external_id):
        raise sdk.DriverError("transient", "delete refused " + self.secrets())


sdk.serve(Talkative())
"""


@pytest.fixture(autouse=True)
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two drivers that treat secrets carelessly: one in the launcher's process, and one in its own."""
    home = tmp_path / "drivers"
    facts = home / "leaky-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    (home / "leaky.py").write_text(LEAKY)
    executable = home / "nodelaunch-driver-talkative"
    executable.write_text(TALKATIVE)
    executable.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(home), prepend=":")
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setenv("PATH", str(home), prepend=":")
    monkeypatch.setenv("CLOUD_TOKEN", SECRETS["CLOUD_TOKEN"])


def descendants(pid: int) -> Iterator[int]:
    for child in children_of(pid):
        yield child
        yield from descendants(child)


def command_lines(pid: int) -> str:
    """Return the command lines of a process and of all its descendants."""
    pids = [pid, *descendants(pid)]
    assert len(pids) > 1  # the driver's
    return " ".join(Path(f"/proc/{each}/cmdline").read_text() for each in pids)


def seen_while_it_fails(serve: Serve, path: Path) -> dict[str, str]:
    """Return all visible output of a launcher whose drivers fail."""
    seen: dict[str, str] = {}

    def command(*arguments: str) -> None:
        done = run(*arguments, timeout_s=120.0)
        seen[" ".join(arguments[:2])] = done.stdout + done.stderr

    serve.await_log("pool_registered", 2)
    config = ("-c", str(path))
    for label in ("inline", "process"):
        command("request", label, "--timeout", "60", *config)
    requests = {entry["request_id"] for entry in serve.log if "request_id" in entry}
    assert len(requests) == 2, [seen, serve.log]
    for request in requests:
        command("explain", request, *config)
        command("explain", request, "--json", *config)
    command("list", *config)
    command("list", "--requests", *config)
    command("leaks", *config)
    command("config", "check", str(path))
    command("driver", "info", "talkative")
    for page in ("/health/live", "/health/ready", "/ready", "/metrics", "/"):
        seen[page] = serve.get(page)[1]
    seen["processes"] = command_lines(serve.process.pid)
    seen["repr"] = repr(load_config(path))
    return seen


def check(seen: dict[str, str], serve: Serve) -> None:
    """Check that the output is not empty and has no secret."""
    log = "".join(entry.get("line", json.dumps(entry)) for entry in serve.log)
    assert "nobody foresaw this" in log
    assert "ZeroDivisionError" in log
    for word in ("printed", "warned", "logged", "unforeseen"):
        assert f"{word} ***" in log, word
    for name, secret in SECRETS.items():
        shown = [where for where, text in {**seen, "log": log}.items() if secret in text]
        assert shown == [], name


def records(client: KazooClient, path: str) -> Iterator[str]:
    """All znodes below *path*, names and contents."""
    try:
        yield f"{path} {client.get(path)[0].decode(errors='replace')}"
        for name in client.get_children(path):
            yield from records(client, f"{path}/{name}")
    except NoNodeError:
        return


@pytest.mark.zookeeper
def test_secrets_are_nowhere_with_zookeeper_and_a_log_in_json(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path
) -> None:
    server = f"{{host: {zookeeper_server.host}, port: {zookeeper_server.port}, chroot: {zk_chroot}}}"
    auth = f"{{user: us, password: {SECRETS['ZOOKEEPER']}}}"
    store = f"zookeeper-servers: [{server}]\nzookeeper-auth: {auth}\nzookeeper-acl: [{{scheme: auth}}]"
    path = tmp_path / "nodepool.yaml"
    path.write_text(CONFIG.format(store=store, **SECRETS))
    serve = Serve(path)
    client = KazooClient(
        f"{zookeeper_server.host}:{zookeeper_server.port}", auth_data=[("digest", f"us:{SECRETS['ZOOKEEPER']}")]
    )
    try:
        client.start(timeout=30)
        seen = seen_while_it_fails(serve, path)
        seen["znodes"] = "\n".join(records(client, zk_chroot))
        assert "/nodelaunch/launchers/" in seen["znodes"]
        serve.kill()  # a drain would wait for a deletion that always fails
        check(seen, serve)
    finally:
        client.stop()
        client.close()
        serve.kill()


def test_secrets_are_nowhere_with_the_embedded_store_and_a_log_as_text(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    path = tmp_path / "nodepool.yaml"
    path.write_text(CONFIG.format(store=f"embedded-store: {{path: {file}}}", **SECRETS))
    serve = Serve(path, as_json=False)
    try:
        seen = seen_while_it_fails(serve, path)
        serve.kill()  # a drain would wait for a deletion that always fails
        for each in tmp_path.glob("store.sqlite*"):
            seen[each.name] = each.read_bytes().decode("latin-1") if each.is_file() else ""
        with sqlite3.connect(file) as database:
            seen["dump"] = "\n".join(database.iterdump())
        database.close()
        assert len(seen["dump"]) > 0
        check(seen, serve)
    finally:
        serve.kill()
