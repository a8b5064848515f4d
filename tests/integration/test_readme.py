"""README and examples are true: what they show is run as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from nodelaunch.launcher import load_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]


def run(command: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command line of the README, as a user in the project's folder would, with its own state."""
    arguments = shlex.split(command.partition("#")[0])
    if arguments[0] == "nodelaunch":
        arguments[:1] = [sys.executable, "-m", "nodelaunch"]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder)}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(command: str, folder: Path) -> str:
    with run(command, folder) as process:
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, (command, out, errors)
    return out


def test_yaml_in_the_readme_is_the_minimal_example() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block in (ROOT / "examples" / "minimal.yaml").read_text()
    assert load_config(ROOT / "examples" / "minimal.yaml").labels[0].name == "debian-12"


def test_it_is_installed_as_the_readme_says(tmp_path: Path) -> None:
    venv, install = (command.replace("/opt/nodelaunch", str(tmp_path / "venv")) for command in COMMANDS[2:4])
    for command in (venv, install):
        done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    program = str(tmp_path / "venv" / "bin" / "nodelaunch")
    done = subprocess.run(
        [program, "config", "check", "examples/openstack.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "needs a library" not in done.stdout + done.stderr


def test_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    demo, test, _venv, _install, check, serve, request, listing, explain = COMMANDS
    assert (demo, test) == ("./demo.sh", "./test.sh")
    assert "good; 1 label," in finish(check, tmp_path)
    with run(serve, tmp_path) as serving:
        assert serving.stderr is not None
        for line in serving.stderr:
            if "pool_registered" in line:
                break
        out = finish(request, tmp_path)
        assert "label=debian-12" in out
        assert "interface_ip=" in out
        finish(listing, tmp_path)
        assert "try-out/main: served: its requestor took the nodes" in finish(explain, tmp_path)
        serving.terminate()
        serving.communicate(timeout=60)
    assert serving.returncode == 0


def test_python_in_the_readme_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ".fake" in done.stdout or done.stdout.strip()
