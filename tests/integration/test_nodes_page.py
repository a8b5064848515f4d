"""docs/nodes-without-zuul.md is true: its configuration is served, its commands and its program are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelaunch.web import rentals
from nodelaunch.web.bodies import MOST_BYTES
from nodelaunch.web.client import TTL_S
from nodelaunch.web.messages import MOST_LABELS
from nodelaunch.web.messages import TTL_S as SERVED_TTL_S
from nodelaunch.web.operations import LONGEST_WAIT_S, OPERATIONS, PREFIX
from support.process import Serve
from support.zookeeper import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "nodes-without-zuul.md").read_text()
(YAML,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
pytestmark = pytest.mark.skipif(
    any(shutil.which(each) is None for each in ("openssl", "jq", "curl")), reason="no openssl, jq or curl"
)


class Reader:
    """A reader who follows the page's instructions, with another port and folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        programs = folder / "bin"
        programs.mkdir()
        (programs / "nodelaunch").write_text(f'#!/bin/sh\nexec {sys.executable} -m nodelaunch "$@"\n')
        (programs / "nodelaunch").chmod(0o755)
        self.env = {
            **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "XDG_STATE_HOME": str(folder),
        }  # fmt: skip

    def here(self, text: str) -> str:
        return text.replace("/etc/nodelaunch", str(self.folder)).replace("8005", str(self.port))

    def shell(self, text: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", self.here(text)],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    token, serving = SHELL[0].splitlines()
    assert serving == "nodelaunch serve -c nodelaunch.yaml"
    made.shell(token)
    (tmp_path / "nodelaunch.yaml").write_text(f"embedded-store: {{path: {tmp_path}/store}}\n" + made.here(YAML))
    serve = Serve(tmp_path / "nodelaunch.yaml")
    serve.await_log("pool_registered")
    serve.await_log("http_listening", port=made.port)
    yield made
    assert serve.stop() == 0
    assert serve.complaints == []


def test_commands_and_program(reader: Reader) -> None:
    assert (reader.folder / "token").stat().st_mode & 0o077 == 0
    setting, *requests = SHELL[1].splitlines()
    for request in requests:
        assert "host_keys" in reader.shell(f"{setting}\n{request}")
    reader.env |= {
        "NODELAUNCH_URL": f"http://127.0.0.1:{reader.port}", "NODELAUNCH_TOKEN_FILE": str(reader.folder / "token"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PYTHON], env=reader.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert " 22 " in done.stdout
    state, host, left_s, end = reader.shell(SHELL[2]).split()
    assert (state, end) == ("fulfilled", "released")
    assert host
    assert 50 < float(left_s) <= 60


def test_paths_and_figures_of_the_page_are_those_of_the_code() -> None:
    told = set(re.findall(r"^\| `([A-Z]+) (/api/v1\S*)` \|", PAGE, re.MULTILINE))
    made = {(each.method, re.sub(r"\{\w+\}", "ID", PREFIX + each.path)) for each in OPERATIONS}
    assert told == made | {("GET", f"{PREFIX}/openapi.json")}
    for state in rentals.RentalState:
        assert f"`{state.value}`" in PAGE
    text = " ".join(PAGE.split())
    for said in (
        f"{MOST_BYTES // 1024} KiB a body, {MOST_LABELS} labels, {rentals.MOST_OPEN} requests that have not ended",
        f"{rentals.PER_SECOND:g} new ones a second, {rentals.MOST_WAITING} waits",
        f"the last {rentals.MOST_ENDED} requests",
        f"{LONGEST_WAIT_S:g} s at most",
        f"after {TTL_S:g} s, or `ttl_s`",
        f"`ttl_s` (default {SERVED_TTL_S:g})",
    ):
        assert said in text
