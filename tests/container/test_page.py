"""The commands for one container in docs/deployment.md do what it says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.containers import Alone, Podman, commands_under

pytestmark = pytest.mark.container
CONFIG = """
labels: [{name: small}]
providers:
  - name: cloud
    driver: fake
    cloud-images: [{name: image}]
    pools: [{name: main, labels: [{name: small, cloud-image: image, min-ram: 8192}]}]
"""


@pytest.fixture
def alone() -> Iterator[Alone]:
    made = Alone()
    yield made
    made.close()


@pytest.mark.usefixtures("image")
def test_container_of_the_page_runs_serves_and_stops(podman: Podman, alone: Alone, tmp_path: Path) -> None:
    _build, run, stop = commands_under("The container image")
    (tmp_path / "nodepool.yaml").write_text(CONFIG)
    podman("rm", "--force", "--ignore", "launcher")
    podman("volume", "rm", "--force", "launcher-state")
    environment = podman.environment
    started = subprocess.Popen(
        [*alone.prefix, "sh", "-c", f"exec {run}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stderr is not None
        assert any("pool_registered" in line for line in started.stderr)
        assert "label=small" in podman("exec", "launcher", "nodelaunch", "request", "small")
        podman("exec", "launcher", "nodelaunch", "list")
        health = [*alone.prefix, "podman", "healthcheck", "run", "launcher"]  # it is run where it is asked for
        subprocess.run(health, env=environment, check=True, capture_output=True, timeout=120)
        subprocess.run(stop, shell=True, env=environment, check=True, capture_output=True, timeout=120)
        assert started.wait(timeout=60) == 0
    finally:
        podman("rm", "--force", "--time", "0", "--ignore", "launcher")
        started.communicate(timeout=60)
        podman("volume", "rm", "--force", "launcher-state")
