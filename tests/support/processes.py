"""Processes of this machine as /proc has them, and the example drivers that make nodes of such."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nodelaunch.conformance import CloudFaults, DriverProgram, DriverUnderTest, Resources
from nodelaunch.driverhost.process.child import Command
from nodelaunch.drivers import DriverPlugin
from nodelaunch.protocol.driver import DriverContext, ExternalId
from support.fakeclouds import NoScanner

EXAMPLES = Path(__file__).parents[2] / "examples" / "process-drivers"
NEEDED = {
    "sshd": ("jq", "socat", "flock", "setsid", "ssh-keygen"),
    "sandbox": ("node", "ssh-keygen"),
    "command": ("python3",),
}
"""Programs that the examples need, in addition to sshd."""
PACKAGES = "Debian packages jq, socat, nodejs, openssh-server"


def example(name: str) -> str:
    """The path of an example's executable."""
    return str(EXAMPLES / f"nodelaunch-driver-{name}")


def why_not(name: str) -> str | None:
    """Return why an example cannot run here, or None if it can."""
    missing = [program for program in NEEDED[name] if shutil.which(program) is None]
    if name != "command" and shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        missing.append("sshd")
    return f"{', '.join(missing)} not installed ({PACKAGES})" if missing else None


def provider_content(driver: str, state: Path) -> dict[str, Any]:
    """The configuration of a provider of an example, as in a file."""
    label = {"name": "small", **({"command": "exec sleep 1000"} if driver.endswith("command") else {})}
    return {
        "name": "local", "driver": driver, "state-dir": str(state), "pools": [{"name": "main", "labels": [label]}],
    }  # fmt: skip


def commands() -> Iterator[tuple[int, str]]:
    """Yield id and command line of every process that is no zombie, with spaces for NULs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if state != "Z":
                yield int(entry.name), command


def running(text: str) -> dict[int, str]:
    """The processes whose command line has *text*."""
    return {pid: command for pid, command in commands() if text in command}


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(parent: int) -> list[int]:
    found = []
    for pid, _ in commands():
        try:
            if parent_of(pid) == parent:
                found.append(pid)
        except OSError:
            continue
    return found


def descendants_of(parent: int) -> set[int]:
    """Return the children of *parent*, their children, and so on."""
    children: dict[int, list[int]] = {}
    for pid, _ in commands():
        try:
            children.setdefault(parent_of(pid), []).append(pid)
        except OSError:
            continue
    found, open_ones = set[int](), [parent]
    while open_ones:
        new = children.get(open_ones.pop(), [])
        found.update(new)
        open_ones.extend(new)
    return found


def example_subject(plugin: DriverPlugin, driver: str, state: Path) -> DriverUnderTest:
    """An example's driver as a subject of the conformance checks, with its nodes in *state*."""
    config = plugin.config_model.model_validate(provider_content(driver, state))
    return DriverUnderTest(
        name=plugin.name,
        open=lambda: plugin.open(config, DriverContext(NoScanner())),
        pool="main",
        label="small",
        faults=_faults(state),
        deadline_s=60.0,
        program=DriverProgram(
            Command(plugin.name, (driver,)), provider_content(driver, state), has_local_processes=True
        ),
    )


def slow_starts(folder: Path) -> str:
    """A PATH on which shells and sessions take a moment before they begin, as on a busy machine; made in *folder*."""
    for name in ("sh", "setsid"):
        shim = folder / name
        shim.write_text(f'#!/bin/sh\nsleep 0.03\nexec {shutil.which(name)} "$@"\n')
        shim.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def _faults(state: Path) -> CloudFaults:
    """Nodes are files or directories there, and processes that are given their names."""

    def names() -> set[str]:
        return {path.name.removeprefix(".gone-").partition(".")[0] for path in state.iterdir()} - {"hold", ""}

    async def resources() -> Resources:
        owners = {name: name for name in names()}
        processes = running(str(state))
        return {**owners, **{f"process {pid}": _owner(command, state) for pid, command in processes.items()}}

    @asynccontextmanager
    async def foreign_instance() -> AsyncIterator[ExternalId]:
        content = json.dumps({"external_id": "foreign"})
        folder, file = state / "foreign", state / "foreign.json"
        folder.mkdir()
        (folder / "instance.json").write_text(content)
        file.write_text(content)
        yield ExternalId("foreign")
        file.unlink()
        shutil.rmtree(folder)

    @asynccontextmanager
    async def boot_held() -> AsyncIterator[None]:
        hold = state / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    return CloudFaults(resources=resources, foreign_instance=foreign_instance, boot_held=boot_held)


def _owner(command: str, state: Path) -> str:
    """The node whose name follows that of the folder in a command line."""
    return command.partition(f"{state}/")[2].split()[0].removeprefix(".gone-").split("/")[0].partition(".")[0]
