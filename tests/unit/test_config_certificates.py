"""Warnings about certificates, and keys that a launcher can't use."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nodelaunch.config.certificates import certificate_warnings
from nodelaunch.config.file import load_store_config
from nodelaunch.connecting import check_files

DAYS = 30


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a certificate that is valid for `DAYS` from now on, its own CA."""
    run = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", str(DAYS)]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*run, *files], check=True, capture_output=True)
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(
        "zookeeper-servers: [{host: localhost}]\n"
        "zookeeper-tls:\n"
        f"  cert: {tmp_path}/cert.pem\n  key: {tmp_path}/key.pem\n  ca: {tmp_path}/cert.pem\n  check-host-name: no\n"
    )
    return path


def warnings_at(config: Path, days: float) -> list[str]:
    now = datetime.now(UTC) + timedelta(days=days)
    found = certificate_warnings(load_store_config(config), config, now=now)
    return [f"{each.line}:{each.column}: {each.message}" for each in found]


def test_dates_of_certificates(config: Path) -> None:
    ends = datetime.now(UTC) + timedelta(days=DAYS)
    assert warnings_at(config, 0.01) == []
    assert warnings_at(config, DAYS - 10) == [
        f"3:9: cert: the certificate expires on {ends:%Y-%m-%d}",
        f"5:7: ca: the certificate expires on {ends:%Y-%m-%d}",
    ]
    assert warnings_at(config, DAYS + 1)[0] == (
        f"3:9: cert: the certificate expired on {ends:%Y-%m-%d}; servers reject it"
    )
    assert "is not valid before" in warnings_at(config, -2)[0]


def test_key_with_a_passphrase_is_refused_and_not_asked_for(config: Path, tmp_path: Path) -> None:
    encrypt = ["openssl", "rsa", "-aes128", "-passout", "pass:hunter2", "-in", f"{tmp_path}/key.pem"]
    subprocess.run([*encrypt, "-out", f"{tmp_path}/key.pem"], check=True, capture_output=True)
    (problem,) = check_files(load_store_config(config), config)
    assert str(problem).endswith("key.pem is encrypted; give a key without a passphrase, readable by this user only")
