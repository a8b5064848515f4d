"""deploy/compose.yaml, brought up by the commands of docs/deployment.md.

It runs in a network namespace of its own, which has nothing but a loopback interface: its ports are free there.
ZooKeeper is Debian's, as the image that the file names can't be fetched.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.containers import BASE, IMAGE, ROOT, Alone, Podman, commands_under
from support.zookeeper import CLASSPATH, JAVA_OPTIONS, why_not

pytestmark = pytest.mark.container
COMPOSE = shutil.which("podman-compose", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
START_S = 90.0
JAVA_NEEDS = ("/usr/lib/jvm", "/usr/share/java", "/etc/java-17-openjdk", "/usr/lib/x86_64-linux-gnu/libz.so.1")
HERE = """
services:
  zookeeper:
    network_mode: host
    command: {command}
    volumes: {volumes}
  launcher:
    network_mode: host
    extra_hosts: ["zookeeper:127.0.0.1"]
"""


class Project:
    """A copy of the project's files, as much as the commands need, and what is different on this machine."""

    def __init__(self, folder: Path, podman: Podman) -> None:
        self.folder, self.podman = folder, podman
        shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("tls"))
        java = ["java", *JAVA_OPTIONS, "-cp", CLASSPATH, "org.apache.zookeeper.server.quorum.QuorumPeerMain"]
        volumes = [f"{path}:{path}:ro" for path in JAVA_NEEDS if Path(path).exists()]
        java[0] = str(Path(shutil.which("java") or "java").resolve())
        override = HERE.format(command=json.dumps([*java, "/conf/zoo.cfg"]), volumes=json.dumps(volumes))
        (folder / "deploy" / "here.yaml").write_text(override)
        self._alone = Alone()

    def run(self, line: str, timeout_s: float = 120.0) -> str:
        """Return the output of a command line of the page, run in this folder and in the network namespace."""
        words = shlex.split(line)
        if words[0] == "podman-compose":
            words[:3] = [str(COMPOSE), "-f", "deploy/compose.yaml", "-f", "deploy/here.yaml"]
        environment = {**self.podman.environment, "ZOOKEEPER_IMAGE": BASE, "NODELAUNCH_IMAGE": IMAGE}
        done = subprocess.run(
            [*self._alone.prefix, *words],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def close(self) -> None:
        self._alone.close()


@pytest.fixture
def project(podman: Podman, image: str, tmp_path: Path) -> Iterator[Project]:
    if COMPOSE is None:
        pytest.skip("no podman-compose, which `nox -s container` installs")
    if reason := why_not():
        pytest.skip(reason)
    made = Project(tmp_path, podman)
    yield made
    made.close()


def test_commands_of_the_page_bring_it_up_and_ask_for_a_node(project: Project) -> None:
    certificates, up, listing, request, down = commands_under("Compose")
    project.run(certificates)
    try:
        project.run(up)
        deadline = time.monotonic() + START_S
        while "ready" not in (said := project.run(listing)):  # the node that is kept ready
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        assert "pretend" in said
        assert "label=debian-12" in project.run(request)
    finally:
        said = project.run(down)
    assert "nodelaunch" not in project.podman("ps", "--all", "--format", "{{.Names}}")
