"""docs/security.md is true: its configurations load without a warning, its commands print what they are said to, and
machines without the pinned host key are not offered."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from kazoo.security import make_digest_acl_credential

from nodelaunch.config.file import load_config
from nodelaunch.drivers import DriverRegistry
from support.certificates import Certificates
from support.process import Serve, run
from support.sshd import SshdFactory, sshd_factory  # noqa: F401  the fixture behind `sshd`

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SUBJECT, HASH = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICGczTVW5c86w/TCKPbsg/2K/PwUqxzxku+10TkUx4Jm"
MACHINES = """
embedded-store: {{path: {folder}/store.sqlite}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: good}}, {{name: bad}}]
providers:
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes:
          - {{name: 127.0.0.1, connection-port: {port}, labels: [good], host-key: '{right}'}}
          - {{name: localhost, connection-port: {port}, labels: [bad], host-key: '{wrong}'}}
"""
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl (Debian package openssl)")


def shell(command: str, folder: Path) -> str:
    """Return the output of *command*."""
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("number", range(len(YAML)))
def test_configuration_loads_without_a_warning(number: int, tmp_path: Path) -> None:
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(YAML[number])
    config, warnings = load_config(path, drivers=DriverRegistry())
    assert config.zookeeper_acl[0].scheme == "auth"
    assert warnings == ()


def test_config_check_of_the_checklist_has_no_warning(certificates: Certificates, tmp_path: Path) -> None:
    tls = certificates.client
    text = YAML[0]
    for key, file in (("cert", tls.cert), ("key", tls.key), ("ca", tls.ca)):
        text = re.sub(rf"(?m)^  {key}: .*$", f"  {key}: {file}", text)
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(text)
    (command,) = re.findall(r"`nodelaunch (config check) \S+`", PAGE.replace("\n", " "))[-1:]
    done = run(*command.split(), str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: good;")


@needs_openssl
def test_subject_of_a_certificate_is_printed_as_zookeeper_has_it(certificates: Certificates) -> None:
    """ZooKeeper accepts it as the id of an entry: test_zookeeper_access.py shows that, with ``CN=some zuul``."""
    assert shell(SUBJECT.replace("client", "zuul"), certificates.folder) == "subject=CN=some zuul"


@needs_openssl
def test_hash_of_a_password_is_that_of_zookeeper(tmp_path: Path) -> None:
    assert f"zuul:{shell(HASH, tmp_path)}" == make_digest_acl_credential("zuul", "its password")


def test_audit_is_a_session_that_is_not_run_by_default() -> None:
    text = (ROOT / "noxfile.py").read_text()
    assert "def audit(session" in text
    assert '"audit"' not in text
    assert "nox -s audit" in PAGE
    assert "openstack" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.sshd
async def test_machine_without_the_pinned_host_key_is_not_offered(sshd: SshdFactory, tmp_path: Path) -> None:
    host = sshd(("ssh-ed25519",))
    await host.start()
    (right,) = host.host_keys
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(MACHINES.format(folder=tmp_path, port=host.port, right=right, wrong=KEY))
    serve = Serve(path)
    try:
        trouble = await asyncio.to_thread(serve.await_log, "machine_quarantined")
        assert trouble["hostname"] == "localhost"
        assert re.search(r"expected ssh-ed25519 SHA256:\S+, found ssh-ed25519 SHA256:", trouble["detail"])
        good = await asyncio.to_thread(run, "request", "good", "-c", str(path))
        assert good.returncode == 0, good.stderr
        bad = await asyncio.to_thread(run, "request", "bad", "--timeout", "1", "-c", str(path))
        assert bad.returncode == 1
        assert "not fulfilled" in bad.stderr
    finally:
        await asyncio.to_thread(serve.kill)
