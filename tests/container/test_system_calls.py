"""The launcher works under the system call filter of its systemd unit, as the seccomp profile of a container."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.containers import ROOT, Container

pytestmark = pytest.mark.container
USER = 10001
UNIT = ROOT / "deploy" / "nodelaunch.service"
CONFIG = """
webapp: {port: 0, listen_address: 127.0.0.1}
embedded-store: {path: /var/lib/nodelaunch/store.sqlite}
labels: [{name: small}]
providers:
  - name: cloud
    driver: fake
    isolation: process
    cloud-images: [{name: image}]
    pools: [{name: main, labels: [{name: small, cloud-image: image, min-ram: 8192}]}]
"""


def calls_in(group: str) -> set[str]:
    """The system calls of one of systemd's sets, those of sets in it too."""
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", group],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = set[str]()
    for word in (line.strip() for line in done.stdout.splitlines()[1:]):
        if word.startswith("@"):
            found |= calls_in(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def profile() -> dict[str, object]:
    """Return a profile that permits the system calls of the unit's SystemCallFilter lines; all others fail with
    EPERM.
    """
    allowed = set[str]()
    for line in UNIT.read_text().splitlines():
        name, _, words = line.partition("=")
        if name == "SystemCallFilter":
            groups = set().union(*(calls_in(word) for word in words.removeprefix("~").split()))
            allowed = allowed - groups if words.startswith("~") else allowed | groups | calls_in("@default")
    assert {"read", "connect", "execve"} <= allowed
    assert not {"chown", "setpriority", "mount", "ptrace"} & allowed
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"}]}


def test_launcher_works_under_the_filter_of_the_unit(run: Callable[..., Container], tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze (Debian package systemd)")
    (tmp_path / "profile.json").write_text(json.dumps(profile()))
    (tmp_path / "nodepool.yaml").write_text(CONFIG)
    (tmp_path / "state").mkdir()
    shutil.chown(tmp_path / "state", USER, USER)
    launcher = run(
        f"--security-opt=seccomp={tmp_path}/profile.json", "--security-opt=no-new-privileges", "--cap-drop=all",
        f"--volume={tmp_path}/nodepool.yaml:/etc/nodepool/nodepool.yaml:ro",
        f"--volume={tmp_path}/state:/var/lib/nodelaunch",
        arguments=("--log-json", "serve"),
    )  # fmt: skip
    launcher.await_log("pool_registered")
    assert "not permitted" in launcher.exec("sh", "-c", "nice -n 5 true 2>&1 || true"), "the filter is in force"
    assert "label=small" in launcher.exec("nodelaunch", "request", "small")
    assert launcher.stop() == 0
    assert [entry for entry in launcher.log() if entry.get("level") in ("warning", "error", "critical")] == []
