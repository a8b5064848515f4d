"""Warnings of what a configuration may say, but probably does not mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.config.file import load_config
from nodelaunch.drivers import DriverRegistry

DRIVERS = DriverRegistry()
POOL = """labels: [{name: small, min-ready: %d}]
providers:
  - name: cloud
    driver: fake
    cloud-images: [{name: image}]
    pools:
      - name: main
        %s
        labels: [{name: small, cloud-image: image, min-ram: 8192}]
"""
HOST = """labels: [{name: bare}]
providers:
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes: [{name: host, labels: [bare], host-key: '%s'}]
"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPi8u1Uc0HRS0vRTDkbM1MeFCgXRwS5kGDJ8VwcHHb0p"


def warnings_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(text)
    _, warnings = load_config(path, drivers=DRIVERS, environ={})
    return [f"{warning.line}:{warning.column}: {warning.message}" for warning in warnings]


def test_limit_with_nothing_behind_it(tmp_path: Path) -> None:
    (warning,) = warnings_of(tmp_path, POOL % (0, "max-servers:"))
    assert warning == ("8:9: max-servers has no value, which means no limit; give a number, or leave the key out")


def test_limit_below_zero(tmp_path: Path) -> None:
    (warning,) = warnings_of(tmp_path, POOL % (0, "max-servers: -3"))
    assert warning == "8:22: max-servers below zero declines every request; write 0 if that is intended"


def test_more_to_keep_ready_than_there_may_be(tmp_path: Path) -> None:
    (warning,) = warnings_of(tmp_path, POOL % (5, "max-servers: 3"))
    assert warning == ("1:35: more than the pools that offer this label allow: the sum of their max-servers is 3")
    assert warnings_of(tmp_path, POOL % (3, "max-servers: 3")) == []
    assert warnings_of(tmp_path, POOL % (5, "max-cores: 8")) == []


def test_labels_that_no_pool_offers_are_told_together(tmp_path: Path) -> None:
    names = ", ".join(f"{{name: spare-{number}}}" for number in range(12))
    text = (POOL % (0, "max-servers: 3")).replace("labels: [{name: small", f"labels: [{names}, {{name: small", 1)
    (warning,) = warnings_of(tmp_path, text)
    assert warning == "1:1: no pool here offers " + ", ".join(f"spare-{n}" for n in range(10)) + " and 2 more"


def test_labels_alone_are_not_warned_of(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, "labels: [{name: small}]\n") == []


def test_pool_that_offers_nothing(tmp_path: Path) -> None:
    text = POOL % (0, "max-servers: 3") + "      - name: empty\n"
    (warning,) = warnings_of(tmp_path, text)
    assert warning == "10:9: this pool offers no label, so it serves no request"


def test_number_that_begins_with_zero(tmp_path: Path) -> None:
    (warning,) = warnings_of(tmp_path, "webapp: {port: 0644}\n")
    assert warning == "1:16: a number that begins with 0 is read as octal; leave the 0 out"
    assert warnings_of(tmp_path, "webapp: {port: 0}\n") == []


@pytest.mark.parametrize("key", ["ssh-ed25519 AAAAgarbage", "ssh-rsa", KEY.replace("ssh-ed25519", "ssh-rsa")])
def test_host_key_that_no_server_can_have(tmp_path: Path, key: str) -> None:
    (warning,) = warnings_of(tmp_path, HOST % key)
    assert warning.startswith("7:56: host-key: '<type> <base64>' of a public key is expected")


def test_host_key(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, HOST % KEY) == []
    assert warnings_of(tmp_path, HOST % f"{KEY} root@host") == []
