"""Real containers with podman, on a machine where no image registry can be reached; and why there are none.

The base image is made of Debian's own archive, and takes the name of the one that the Containerfile asks for. All of
it, images and containers, is in one folder, which is kept: the base takes minutes to make. ``python -m
support.containers`` makes it, and says why where it can't. Commands of docs/deployment.md are run as they stand there.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HOME = Path(os.environ.get("NODELAUNCH_CONTAINERS") or ROOT / ".nox" / "containers")
"""Folder of all data; NODELAUNCH_CONTAINERS names another one."""
PAGE = (ROOT / "docs" / "deployment.md").read_text()
NEEDED = ("podman", "runc", "debootstrap")
"""Debian packages, and the programs in them."""
RELEASE = "bookworm"
BASE, IMAGE = "docker.io/library/python:3.12-slim", "localhost/nodelaunch"
INCLUDED = "python3,python3-venv,ca-certificates"
PROCESSES = 10_000
"""Limit of processes for one user; podman's own default exceeds what a sandbox grants."""
MEGABYTE = 1_000_000
FOR_PIP = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""Files for access to the package index, which a build needs, too."""


def why_not() -> str | None:
    """Return why no image can be built and run here, or None if it can."""
    if os.geteuid() != 0:
        return "images are built as root here"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed (Debian packages of these names)" if missing else None


def commands_under(heading: str) -> list[str]:
    """Return the commands in shell blocks of a part of the page; a command that continues over lines is one."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]


class Alone:
    """A network namespace with only a loopback interface: all ports are free, and no other process uses it."""

    def __init__(self) -> None:
        command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 1000"]
        self._keeper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "up\n"

    @property
    def prefix(self) -> list[str]:
        """Return the first words of a command that runs in the namespace."""
        return ["nsenter", f"--net=/proc/{self._keeper.pid}/ns/net"]

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.communicate()


class Podman:
    """podman with its own storage; environment variables alone configure it to run in a sandbox.

    So commands are the same as elsewhere: ``podman run nodelaunch``.
    """

    def __init__(self, home: Path = HOME) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        limits = [f"nofile={files}:{files}", f"nproc={PROCESSES}:{PROCESSES}"]
        settings = f"""
[containers]
cgroups = "no-conmon"
default_ulimits = {json.dumps(limits)}
log_driver = "k8s-file"
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "{home}/tmp"
"""
        mounts = [f"{path}:{path}:ro" for path in FOR_PIP if Path(path).exists()]
        (home / "containers.conf").write_text(settings)
        (home / "build.conf").write_text(
            settings.replace("[containers]", f"[containers]\nvolumes = {json.dumps(mounts)}")
        )
        (home / "storage.conf").write_text(f"""
[storage]
driver = "{os.environ.get("NODELAUNCH_CONTAINER_STORAGE", "overlay")}"
graphroot = "{home}/store"
runroot = "{home}/run"
""")
        (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.environment = {
            **os.environ, "CONTAINERS_CONF": str(home / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"), "BUILDAH_ISOLATION": "chroot",
        }  # fmt: skip

    def __call__(
        self, *arguments: str, program: str = "podman", timeout_s: float = 120.0, check: bool = True, **options: Any
    ) -> str:
        """Return the output of ``podman`` *arguments*."""
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False,
            **{"env": self.environment, **options},
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{program} {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def inspect(self, what: str, kind: str = "container") -> Mapping[str, Any]:
        found: list[Mapping[str, Any]] = json.loads(self(kind, "inspect", what))
        return found[0]

    def has_image(self, name: str) -> bool:
        return bool(self("images", "--quiet", name).strip())

    def make_base(self) -> None:
        """Debian with Python, in place of an image from a registry, if it isn't there."""
        if self.has_image(BASE):
            return
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            tree = f"{folder}/tree"
            self(
                "--variant=minbase", f"--include={INCLUDED}", RELEASE, tree, program="debootstrap", timeout_s=900.0
            )  # fmt: skip
            shutil.rmtree(f"{tree}/var/cache/apt", ignore_errors=True)
            archive = f"{folder}/tree.tar"
            self("-C", tree, "-cf", archive, ".", program="tar")
            self("import", archive, BASE)

    def build(self) -> None:
        """Build the project's image, as far as anything changed."""
        command = shlex.split(commands_under("The container image")[0])
        settings = {"CONTAINERS_CONF": str(self.home / "build.conf")}
        self(*command[1:], program=command[0], timeout_s=540.0, cwd=ROOT, env=self.environment | settings)

    def size(self, image: str) -> int:
        """Bytes, with all layers."""
        return int(self.inspect(image, "image")["Size"])


class Container:
    """A container in the background; `remove` it."""

    def __init__(self, podman: Podman, name: str, *arguments: str) -> None:
        """*arguments*: what follows ``podman run``, from the options to the command."""
        self.podman, self.name = podman, name
        podman("run", "--detach", "--replace", "--name", name, *arguments)

    @property
    def pid(self) -> int:
        """Return the id of the container's process 1 on this machine, or 0 once the process has ended."""
        return int(self.podman.inspect(self.name)["State"]["Pid"])

    def log(self) -> list[dict[str, Any]]:
        """Return the log of the container by line; lines that are not JSON have only ``text``."""
        return [_entry(line) for line in self._said().splitlines()]

    def _said(self) -> str:
        done = subprocess.run(
            ["podman", "logs", self.name], env=self.podman.environment, text=True, timeout=60, check=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.stdout

    def await_log(self, event: str, within_s: float = 60.0) -> dict[str, Any]:
        """Wait for an entry of *event*."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for entry in self.log():
                if entry.get("event") == event:
                    return entry
            assert self.pid, f"it ended: {self._said()}"
            time.sleep(0.2)  # podman has no event for this
        raise AssertionError(f"no {event} in {self._said()}")

    def exec(self, *command: str, **options: Any) -> str:
        return self.podman("exec", self.name, *command, **options)

    def stop(self, grace_s: int = 60) -> int:
        """Its exit code, after a SIGTERM and, *grace_s* later, a SIGKILL."""
        self.podman("stop", "--time", str(grace_s), self.name, timeout_s=grace_s + 60.0)
        return int(self.podman.inspect(self.name)["State"]["ExitCode"])

    def remove(self) -> None:
        self.podman("rm", "--force", "--time", "0", "--ignore", self.name)


def _entry(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"text": line}


def main(_arguments: Sequence[str] = ()) -> int:
    if reason := why_not():
        sys.stderr.write(f"no containers here: {reason}\n")
        return 1
    podman = Podman()
    podman.make_base()
    podman.build()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
