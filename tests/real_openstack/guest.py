#!/usr/bin/env python3
"""A server's guest on the test control plane: what runs on its address, as its metadata asks.

Standard input has the server as one JSON object, standard output is its console; the process that started the guest
kills its process group. ``guest: sshd`` is an OpenSSH server with host keys of its own; ``guest: rekey`` one that
starts with keys of its image, and has others after ``rekey_after`` seconds, as an image with baked-in keys; ``guest:
cloud-init`` one that starts with keys of its image, too, until a real cloud-init has processed its user data; ``guest:
closed`` nothing that listens. Without it there is no guest. What does *not* belong here: anything of the project; any
Python runs this.
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
"""Port of the guests."""
KEYS = {
    "ssh-ed25519": ("-t", "ed25519"),
    "ecdsa-sha2-nistp256": ("-t", "ecdsa", "-b", "256"),
    "ssh-rsa": ("-t", "rsa", "-b", "2048"),
}
ROOT = Path(__file__).resolve().parents[2]
CLOUD_INIT = Path(os.environ.get("NODELAUNCH_CLOUD_INIT") or ROOT / ".nox" / "cloud-init")
"""Folder of Debian's unpacked packages of cloud-init."""
CONSOLE_KEY = "host key of guest: "
"""Comes before each host key on the console, once it is final."""


def main() -> None:
    server = json.load(sys.stdin)
    say(f"guest of {server['name']} at {server['host']}")
    kind = server["metadata"].get("guest")
    if kind not in ("sshd", "rekey", "cloud-init"):
        return
    addresses = [address for port in server["ports"] for address in port["addresses"] if "." in address]
    folder = Path(tempfile.mkdtemp(prefix="guest-"))
    (folder / "authorized_keys").write_text(server["key_data"] or "")
    make_keys(folder)
    sshd = start_sshd(folder, addresses)
    if kind != "sshd":
        time.sleep(float(server["metadata"].get("rekey_after", "1")))
        if kind == "rekey":
            make_keys(folder)
        else:
            first_boot(folder, server["user_data"] or "")
        sshd.terminate()
        sshd.wait()
        sshd = start_sshd(folder, addresses)
    for path in keys_in(folder):
        say(CONSOLE_KEY + " ".join(path.with_suffix(".pub").read_text().split()[:2]))
    sshd.wait()
    shutil.rmtree(folder, ignore_errors=True)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def keys_in(folder: Path) -> "list[Path]":
    """The host keys there are."""
    return sorted((folder / "etc" / "ssh").glob("ssh_host_*_key"))


def make_keys(folder: Path) -> None:
    """New ones of each kind."""
    (folder / "etc" / "ssh").mkdir(parents=True, exist_ok=True)
    for arguments in KEYS.values():
        path = folder / "etc" / "ssh" / f"ssh_host_{arguments[1]}_key"
        path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", "guest", *arguments, "-f", path], check=True)


def first_boot(folder: Path, user_data: str) -> None:
    """Apply cloud-init to the host keys in *user_data*."""
    script = ROOT / "tests" / "support" / "cloudinit_run.py"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CLOUD_INIT / "usr" / "lib" / "python3" / "dist-packages")}
    asked = json.dumps([{"user_data": user_data, "folder": str(folder)}])
    done = subprocess.run(
        ["/usr/bin/python3", script], input=asked, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode != 0:
        say("cloud-init failed: " + done.stderr)
        return
    (answer,) = json.loads(done.stdout.splitlines()[-1])
    answer["config"].pop("ssh_keys", None)
    say("cloud-init: " + json.dumps(answer))


def start_sshd(folder: Path, addresses: "list[str]") -> "subprocess.Popen[bytes]":
    """An OpenSSH server with the host keys there are."""
    lines = [f"PidFile {folder}/pid", "UsePAM no", "PasswordAuthentication no", "StrictModes no"]
    lines += [f"AuthorizedKeysFile {folder}/authorized_keys"]
    lines += [f"ListenAddress {address}:{PORT}" for address in addresses]
    lines += [f"HostKey {path}" for path in keys_in(folder)]
    config = folder / "sshd_config"
    config.write_text("\n".join(lines) + "\n")
    sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or "sshd"
    return subprocess.Popen([sshd, "-D", "-e", "-f", config])


if __name__ == "__main__":
    main()
