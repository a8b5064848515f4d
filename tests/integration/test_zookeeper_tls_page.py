"""The instructions of docs/deployment.md for ZooKeeper with TLS, carried out with a server of Debian's."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.process import run
from support.zookeeper import CLASSPATH, JAVA_OPTIONS, START_TIMEOUT_S, free_port, why_not

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
SECTION = PAGE.partition("## ZooKeeper with TLS\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)
MAKE, SERVER, CONFIG, CHECK = (text for _, text in BLOCKS)

pytestmark = [
    pytest.mark.zookeeper,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl (Debian package openssl)"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


class Site:
    """A folder with the page's certificates, for a server that is called localhost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "nodelaunch.yaml"

    def here(self, text: str) -> str:
        """*text* of the page, with the names, places and ports of the test."""
        for old, new in (
            ("zk1.example.org", "localhost"),
            ("/etc/zookeeper/tls", str(self.folder)),
            ("/etc/nodelaunch/tls", str(self.folder)),
            ("2281", str(self.port)),
        ):
            text = text.replace(old, new)
        return text

    def shell(self, text: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-euc", self.here(text)], cwd=self.folder, check=check, capture_output=True, text=True, timeout=120
        )

    def configure(self) -> None:
        self.config.write_text(self.here(CONFIG).replace("host: localhost", f"host: localhost\n    port: {self.port}"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    assert "launcher.crt: OK" in made.shell(MAKE).stdout
    made.configure()
    rest = f"dataDir={tmp_path}/data\ntickTime=500\nadmin.enableServer=false\nsecureClientPortAddress=127.0.0.1\n"
    (tmp_path / "zoo.cfg").write_text(made.here(SERVER) + rest)
    command = ["java", *JAVA_OPTIONS, "-cp", CLASSPATH, "org.apache.zookeeper.server.quorum.QuorumPeerMain"]
    with (tmp_path / "out").open("wb") as out:
        server = subprocess.Popen([*command, str(tmp_path / "zoo.cfg")], stdout=out, stderr=out, cwd=tmp_path)
    try:
        yield made
    finally:
        server.kill()
        server.wait()


def test_commands_of_the_page_make_a_server_that_is_reached_over_tls(site: Site) -> None:
    first, *commands = CHECK.replace("\\\n", " ").splitlines()
    until = time.monotonic() + START_TIMEOUT_S
    while "Verification: OK" not in (asked := site.shell(first, check=False)).stdout + asked.stderr:
        assert time.monotonic() < until, asked.stderr + (site.folder / "out").read_text()
    for command in commands:
        name, *arguments = command.replace("nodelaunch.yaml", str(site.config)).split()
        assert name == "nodelaunch"
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "warning" not in done.stdout
    (site.folder / "ca.crt").write_text((site.folder / "launcher.crt").read_text())
    assert site.shell(first, check=False).returncode, "a server of another CA"
