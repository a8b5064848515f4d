#!/usr/bin/env python3
"""A server's guest on the test control plane: what runs on its address, as its metadata asks.

Standard input has the server as one JSON object, standard output is its console; whoever started us kills our process
group. ``guest: sshd`` is an OpenSSH server with host keys of its own; ``guest: rekey`` one that starts with keys of
its image, and has others after ``rekey_after`` seconds, as an image with baked-in keys; ``guest: closed`` nothing that
listens. Without it there is no guest. What does *not* belong here: anything of the project; any Python runs this.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PORT = 28022
"""Where guests listen."""
KEYS = {
    "ssh-ed25519": ("-t", "ed25519"),
    "ecdsa-sha2-nistp256": ("-t", "ecdsa", "-b", "256"),
    "ssh-rsa": ("-t", "rsa", "-b", "2048"),
}
CONSOLE_KEY = "host key of guest: "
"""Comes before each host key on the console, once it is final."""


def main() -> None:
    server = json.load(sys.stdin)
    say(f"guest of {server['name']} at {server['host']}")
    kind = server["metadata"].get("guest")
    if kind not in ("sshd", "rekey"):
        return
    addresses = [address for port in server["ports"] for address in port["addresses"] if "." in address]
    folder = Path(tempfile.mkdtemp(prefix="guest-"))
    (folder / "authorized_keys").write_text(server["key_data"] or "")
    if kind == "rekey":
        first = start_sshd(folder, addresses)
        time.sleep(float(server["metadata"].get("rekey_after", "1")))
        first.terminate()
        first.wait()
    sshd = start_sshd(folder, addresses)
    for name in sorted(KEYS):
        say(CONSOLE_KEY + " ".join((folder / f"{name}.pub").read_text().split()[:2]))
    sshd.wait()
    shutil.rmtree(folder, ignore_errors=True)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def start_sshd(folder: Path, addresses: "list[str]") -> "subprocess.Popen[bytes]":
    """An OpenSSH server with new host keys."""
    lines = [f"PidFile {folder}/pid", "UsePAM no", "PasswordAuthentication no", "StrictModes no"]
    lines += [f"AuthorizedKeysFile {folder}/authorized_keys"]
    lines += [f"ListenAddress {address}:{PORT}" for address in addresses]
    for name, arguments in KEYS.items():
        path = folder / name
        path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", "guest", *arguments, "-f", path], check=True)
        lines.append(f"HostKey {path}")
    config = folder / "sshd_config"
    config.write_text("\n".join(lines) + "\n")
    sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or "sshd"
    return subprocess.Popen([sshd, "-D", "-e", "-f", config])


if __name__ == "__main__":
    main()
