"""A real cloud-init, unpacked from Debian's packages: what a machine makes of its user data.

``test.sh`` unpacks it into ``.nox/cloud-init``; ``NODELAUNCH_CLOUD_INIT`` names another folder. It is never installed,
since it would take over the machine at its next boot. What does *not* belong here: what is tested.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VARIABLE = "NODELAUNCH_CLOUD_INIT"
PYTHON = "/usr/bin/python3"
"""Debian's, which the packages are for."""
SCRIPT = Path(__file__).parent / "cloudinit_run.py"
TIMEOUT_S = 120.0


def modules() -> Path:
    """Return the folder of the packages' modules."""
    return Path(os.environ.get(VARIABLE) or ROOT / ".nox" / "cloud-init") / "usr" / "lib" / "python3" / "dist-packages"


def why_none() -> str | None:
    """Return why cloud-init is missing, or None if it is installed."""
    if (modules() / "cloudinit").is_dir():
        return None
    return f"no cloud-init in {modules()}: test.sh unpacks it (Debian package cloud-init), {VARIABLE} names another"


needed = pytest.mark.skipif(why_none() is not None, reason=why_none() or "")


@dataclass(frozen=True)
class Booted:
    """A machine after its first boot."""

    config: dict[str, Any]
    """Merged of all documents in the user data."""
    scripts: list[str]
    """Scripts that cloud-init would run."""
    warnings: list[str]
    faults: str
    """Errors that cloud-init's schema finds in the configuration."""
    host_keys: dict[str, str]
    """Names and contents of the files in ``/etc/ssh``."""


def boot(user_data: Sequence[str], folder: Path) -> list[Booted]:
    """Boot a machine for each, whose image has host keys of its own, with a folder in *folder* as its root."""
    roots = [folder / str(number) for number in range(len(user_data))]
    for root in roots:
        keys = root / "etc" / "ssh"
        keys.mkdir(parents=True)
        for kind in ("rsa", "ecdsa", "ed25519"):
            (keys / f"ssh_host_{kind}_key").write_text("the image's")
            (keys / f"ssh_host_{kind}_key.pub").write_text("the image's")
    asked = [{"user_data": text, "folder": str(root)} for text, root in zip(user_data, roots, strict=True)]
    done = subprocess.run(
        [PYTHON, str(SCRIPT)], input=json.dumps(asked), capture_output=True, text=True, check=False,
        timeout=TIMEOUT_S, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(modules())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return [Booted(**answer, host_keys=_files(root)) for answer, root in zip(answers, roots, strict=True)]


def _files(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((root / "etc" / "ssh").iterdir())}
