"""The GARM provider of examples as a subject of the conformance checks, and one that breaks the interface.

Run as a script this file is that other provider: it does what the file ``fault`` beside its configuration file says,
and what the example does where there is none.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "garm-provider" / "garm-provider-sshd"
PORT = 2222


def why_not() -> str | None:
    """Return why the provider cannot run here, or None if it can."""
    found = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") and shutil.which("ssh-keygen")
    return None if found else "sshd and ssh-keygen are not installed (Debian package openssh-server)"


def executable(home: Path) -> Path:
    """Return the path of a provider that breaks the interface on demand."""
    path = home / "provider"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {__file__}\n")
    path.chmod(0o755)
    return path


def provider_content(home: Path, **more: Any) -> dict[str, Any]:
    """A provider's mapping, as in a file, with its instances below *home*; *more*: further keys of the provider."""
    (home / "provider.toml").write_text(f'state_dir = "{home}/state"\nport = {PORT}\n')
    label = {"name": "small", "image": "debian", "flavor": "tiny", "connection-port": PORT, "cores": 1, "ram": 64}
    return {
        "name": "local", "driver": "garm", "executable": str(executable(home)), "poll-interval": 0.05,
        "config-file": str(home / "provider.toml"), "launch-timeout": 60.0,
        "pools": [{"name": "main", "labels": [label]}], **{key.replace("_", "-"): each for key, each in more.items()},
    }  # fmt: skip


def break_with(home: Path, fault: str | None) -> None:
    """Make the provider have this fault from now on; None: no fault."""
    (home / "fault").unlink(missing_ok=True)
    if fault is not None:
        (home / "fault.new").write_text(fault)
        (home / "fault.new").rename(home / "fault")


def subject(home: Path, open_driver: Any) -> Any:
    """*open_driver*'s drivers, on the provider in *home*."""
    from nodelaunch.conformance import CloudFaults, DriverUnderTest

    state = home / "state"
    named = {name: partial(_fault, home, name) for name in ("exits 1", "garbage", "killed in a create", "no id")}
    faults = CloudFaults(resources=partial(_resources, state), boot_held=partial(_held, state), named=named)
    return DriverUnderTest(name="garm", open=open_driver, pool="main", label="small", faults=faults, deadline_s=60.0)


async def _resources(state: Path) -> dict[str, str | None]:
    """Directories and processes, by the external ids of the instances they are."""
    from nodelaunch.drivers.garm.naming import external_id
    from support.processes import running

    owners: dict[str, str | None] = {}
    ids: dict[str, str] = {}
    for folder in state.iterdir() if state.is_dir() else ():
        if not folder.is_dir():
            continue
        about = json.loads((folder / "instance.json").read_text()) if (folder / "instance.json").exists() else None
        owners[folder.name] = ids[folder.name] = external_id(about["provider_id"], about["pool_id"]) if about else ""
    for pid, command in running(str(state)).items():
        owners[f"process {pid}"] = ids.get(command.partition(f"{state}/")[2].split("/")[0].split()[0])
    return owners


@asynccontextmanager
async def _held(state: Path) -> AsyncIterator[None]:
    state.mkdir(exist_ok=True)
    (state / "hold").touch()
    try:
        yield
    finally:
        (state / "hold").unlink()


@asynccontextmanager
async def _fault(home: Path, name: str) -> AsyncIterator[None]:
    break_with(home, name)
    try:
        yield
    finally:
        break_with(home, None)


# -- as a provider ----------------------------------------------------------------------------------------------------


def misbehave(fault: str, home: Path, command: str) -> None:
    """Return where this command is done well."""
    sys.stderr.write(f"{command} {fault}\n")
    match fault:
        case "exits 1" | "exits 30" | "exits 31":
            sys.exit(int(fault.split()[1]))
        case "garbage":
            sys.stdout.write("Listening on port 8080\n")
            sys.exit(0)
        case "no id" if command in ("CreateInstance", "GetInstance"):
            sys.stdout.write(json.dumps({"name": "nobody", "status": "running"}))
            sys.exit(0)
        case "killed in a create" if command == "CreateInstance":
            name = json.load(sys.stdin)["name"]
            (home / "state" / f".new-{name}").mkdir(parents=True)
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs in a create" if command == "CreateInstance":
            hang(home)
        case "hangs":
            hang(home)
        case "floods":
            while True:
                os.write(1, b"x" * 65536)
        case "fails by its own account" if command == "CreateInstance":
            name = json.load(sys.stdin)["name"]
            answer = {"provider_id": name, "name": name, "status": "error", "provider_fault": "bm8gcm9vbQ=="}
            sys.stdout.write(json.dumps(answer))
            sys.exit(0)


def hang(home: Path) -> None:
    """Together with a child, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.fork()
    (home / f"hanging-{os.getpid()}").touch()
    time.sleep(1000)


def main() -> None:
    home = Path(os.environ["GARM_PROVIDER_CONFIG_FILE"]).parent
    fault = home / "fault"
    if fault.exists():
        misbehave(fault.read_text(), home, os.environ["GARM_COMMAND"])
    os.execv(EXAMPLE, [str(EXAMPLE)])


if __name__ == "__main__":
    main()
