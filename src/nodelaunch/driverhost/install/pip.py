"""Calls pip, and turns its errors into messages. No other module calls pip.

installer.py decides what is installed, and where.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from nodelaunch.driverhost.install.lockfile import InstallError

TIMEOUT_S: Final = 900.0
"""Timeout of one run of pip: a build may take long."""
_UNREACHABLE: Final = (
    "Temporary failure in name resolution", "Name or service not known", "NewConnectionError", "ConnectTimeout",
    "ProxyError", "MaxRetryError", "Connection refused", "Network is unreachable",
)  # fmt: skip
"""Parts of pip's output when it can't reach an index."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of packages."""

    is_offline: bool = False
    """True if packages come only from *folders*, regardless of pip's own configuration."""
    folders: tuple[Path, ...] = ()
    """Folders of wheels and source archives."""

    @property
    def arguments(self) -> list[str]:
        folders = [word for folder in self.folders for word in ("--find-links", str(folder))]
        return [*(["--no-index"] if self.is_offline else ["--retries", "1"]), *folders]

    @property
    def environment(self) -> Mapping[str, str]:
        if not self.is_offline:
            return os.environ
        own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        return {**own, "PIP_CONFIG_FILE": os.devnull}


class Environment:
    """A virtual environment. Uses this interpreter's pip if there is one; else the environment gets its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python: Path = folder / "bin" / "python"
        self._has_own_pip = find_spec("pip") is None

    def create(self) -> None:
        """Make the environment. Raises: InstallError."""
        try:
            venv.EnvBuilder(symlinks=True, with_pip=self._has_own_pip).create(self.folder)
        except (OSError, subprocess.CalledProcessError) as error:
            advice = "; is the system's package python3-venv installed?" if self._has_own_pip else ""
            raise InstallError(f"a virtual environment can't be made in {self.folder}: {error}{advice}") from None

    @property
    def packages(self) -> Path:
        """The folder of the environment's packages."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def pip(self, *arguments: str, sources: Sources) -> str:
        """Run pip and return its output. Raises: InstallError."""
        python = [str(self.python), "-m", "pip"]
        if not self._has_own_pip:
            python = [sys.executable, "-m", "pip", "--python", str(self.python)]
        command = [*python, "--disable-pip-version-check", "--no-input", *arguments]
        environment = {name: value for name, value in sources.environment.items() if name != "PYTHONPATH"}
        try:
            done = subprocess.run(  # noqa: S603  no shell
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment
            )
        except subprocess.TimeoutExpired:
            raise InstallError(f"pip {arguments[0]} did not finish within {TIMEOUT_S:g} s") from None
        if done.returncode != 0:
            raise InstallError(_why(done.stdout + done.stderr, sources))
        return done.stdout

    def needed(self, wheel: Path, sources: Sources) -> list[str]:
        """Return the packages to install besides *wheel*, each as ``name==version``, except installed ones."""
        report = self.pip(
            "install", "--dry-run", "--quiet", "--report", "-", *sources.arguments, str(wheel), sources=sources
        )
        each = [item["metadata"] for item in json.loads(report)["install"] if not _is_file(item, wheel)]
        return [f"{said['name']}=={said['version']}" for said in each]


def _is_file(item: Mapping[str, Mapping[str, str]], path: Path) -> bool:
    return item["download_info"]["url"].rpartition("/")[2] == path.name


def _why(output: str, sources: Sources) -> str:
    """Return the message for an operator about pip's *output*."""
    if "DO NOT MATCH THE HASHES" in output:
        which = ", ".join(re.findall(r"^\s+(\S+==\S+).*:$|^\s+(\S+) from .*:$", output, re.MULTILINE)[0]) or "a package"
        expected, got = re.search(r"Expected sha256 (\w+)", output), re.search(r"Got\s+(\w+)", output)
        digests = f": it has SHA-256 {got[1]}, the lock file says {expected[1]}" if expected and got else ""
        return f"{which.strip(', ')} differs from the lock file{digests}; nothing was changed"
    missing = re.search(r"No matching distribution found for (.+)", output)
    if missing is not None and not any(sign in output for sign in _UNREACHABLE):
        return f"no package {missing[1].strip()} that this Python can use {_where(sources)}"
    if any(sign in output for sign in _UNREACHABLE):
        return "the package index can't be reached; with --offline --index-dir DIR packages are taken from a folder"
    lines = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return "pip failed: " + ("; ".join(lines) or output.strip()[-500:])


def _where(sources: Sources) -> str:
    folders = ", ".join(map(str, sources.folders))
    if sources.is_offline:
        return f"is in {folders}" if folders else "can be had offline; name a folder with --index-dir DIR"
    return "is in the package index" + (f" or in {folders}" if folders else "")
