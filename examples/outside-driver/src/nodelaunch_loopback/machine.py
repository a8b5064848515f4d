"""The machines: each has a directory with its data, and an sshd in its own session.

A directory is created and removed by one rename. So after any crash a machine is either complete or absent.
What does *not* belong here: anything of nodelaunch.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BOOT = """\
set -e
cd "$1"
echo $$ > .pid
mv .pid pid
while [ -e ../boot-held ]; do sleep 0.05; done
ssh-keygen -q -t ed25519 -N '' -C '' -f host_key
exec "$2" -D -e -f /dev/null -o ListenAddress="$3" -o Port="$4" -o HostKey="$1/host_key" -o PidFile=none \\
    -o UsePAM=no -o PasswordAuthentication=no -o StrictModes=no \\
    -o AuthorizedKeysFile="$1/authorized_keys %h/.ssh/authorized_keys"
"""
"""Command of a machine, started in its own session. It ends by itself when its directory is gone."""
STARTS_WITHIN_S = 10.0
"""Seconds after which a machine without a process never gets one: the driver was killed while it made it."""
POLL_S = 0.03
KERNEL_THREAD = 0x200000
"""Flag of a kernel thread, proc(5): PF_KTHREAD. It has no command line, and may have the pid after a reboot."""


class NoAddressError(Exception):
    """All addresses are taken."""


@dataclass(frozen=True)
class Machine:
    """A machine, as recorded in its directory."""

    folder: Path
    address: str
    port: int
    metadata: dict[str, str]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def pid(self) -> int | None:
        """Return the pid of its sshd, or None if it does not run."""
        return _pid(self.folder, self.folder)

    @property
    def is_broken(self) -> bool:
        """Return True if it will never run."""
        if (self.folder / "pid").exists():
            return self.pid is None and self.folder.exists()
        with suppress(OSError):
            return time.time() - (self.folder / "machine.json").stat().st_mtime > STARTS_WITHIN_S
        return False

    async def boot(self, sshd: Path) -> None:
        """Start its sshd without waiting for it. Raises: OSError."""
        script = ["sh", "-c", BOOT, "sh", str(self.folder), str(sshd), self.address, str(self.port)]
        await asyncio.to_thread(_start, script, self.folder / "console")  # to its end, though this be cancelled

    async def answers(self) -> bool:
        """Return True if an SSH server answers at its address."""
        try:
            reader, writer = await asyncio.open_connection(self.address, self.port)
        except OSError:
            return False
        try:
            return (await reader.read(4)) == b"SSH-"
        except OSError:
            return False
        finally:
            writer.close()

    def host_keys(self) -> tuple[str, ...]:
        """Return the host keys, each as ``<type> <base64>``. Raises: OSError."""
        lines = (self.folder / "host_key.pub").read_text().splitlines()
        return tuple(" ".join(line.split()[:2]) for line in lines)

    def console(self) -> str:
        """Return the output of its sshd. Raises: OSError."""
        return (self.folder / "console").read_text(errors="replace")[-4000:]

    async def stop(self) -> None:
        """End its sshd and all sessions, and wait until they are gone."""
        await _stop(self.folder, self.folder)


@dataclass(frozen=True)
class Site:
    """All machines below one directory."""

    folder: Path

    def machines(self) -> Iterator[Machine]:
        """Return the existing machines. Raises: OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(self.folder.iterdir()):
            if not folder.name.startswith(".") and (machine := self.machine(folder.name)) is not None:
                yield machine

    def machine(self, name: str) -> Machine | None:
        folder = self.folder / name
        try:
            said = json.loads((folder / "machine.json").read_text())
        except (OSError, ValueError):
            return None
        return Machine(folder, said["address"], said["port"], said["metadata"])

    def add(
        self, name: str, metadata: dict[str, str], network: str, port: int, *, most: int, keys: str = ""
    ) -> Machine:
        """A new machine with a free address, not booted yet. Raises: OSError, NoAddressError when there are *most*."""
        with self._alone():
            taken = {machine.address for machine in self.machines()}
            free = (str(host) for host in ipaddress.IPv4Network(network).hosts() if str(host) not in taken)
            address = next(free, None) if len(taken) < most else None
            if address is None:
                raise NoAddressError(f"there are {len(taken)} machines in {self.folder}")
            unique = f"{name}-{secrets.token_hex(3)}"
            making = self.folder / f".new-{unique}"
            making.mkdir()
            (making / "authorized_keys").write_text(keys)
            content = {"address": address, "port": port, "metadata": metadata}
            (making / "machine.json").write_text(json.dumps(content))
            made = making.rename(self.folder / unique)
            return Machine(made, address, port, metadata)

    async def remove(self, name: str) -> None:
        """Remove a stopped machine, if it exists. Raises: OSError."""
        started, gone = self.folder / name, self.folder / f".gone-{name}"
        with suppress(FileNotFoundError):
            started.rename(gone)
        while gone.exists():
            await _stop(gone, started)  # it may have had no process yet when it was stopped
            try:
                await asyncio.to_thread(shutil.rmtree, gone)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # another deletes it, or sshd just started
                    raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _start(script: list[str], console: Path) -> None:
    with console.open("ab") as file:
        subprocess.run(["setsid", "--fork", *script], stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)


def _pid(folder: Path, started: Path) -> int | None:
    """Return the pid in *folder* if its process was started with the argument *started* for this machine."""
    with suppress(OSError, ValueError):
        pid = int((folder / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        about = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        becomes_sshd = not command and about[0] != "Z" and not int(about[6]) & KERNEL_THREAD  # it has none for a moment
        if str(started) in command or becomes_sshd:
            return pid
    return None


async def _stop(folder: Path, started: Path) -> None:
    while (pid := _pid(folder, started)) is not None:
        for each in (*_descendants(pid), pid):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        await asyncio.sleep(POLL_S)


def _descendants(pid: int) -> list[int]:
    """Return the processes that *pid* has started, directly or indirectly."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]
