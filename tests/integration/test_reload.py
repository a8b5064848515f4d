"""The running command follows its configuration files, however they are replaced, and refuses bad ones."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.process import Serve, run

CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}, {{name: {label}}}]
providers:
  - name: cloud
    driver: test
    pools: [{{name: main, max-servers: 4, labels: [small, {label}]}}]
"""


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config" / "nodepool.yaml"
        self.config.parent.mkdir()
        self.write("first")
        self.serve = Serve(self.config, "--drain-timeout", "0.5")
        self.serve.await_log("pool_registered")
        self.serve.await_log("http_listening")

    def text(self, label: str) -> str:
        return CONFIG.format(folder=self.folder, label=label)

    def write(self, label: str) -> None:
        self.config.write_text(self.text(label))

    def offers(self, label: str) -> bool:
        return run("request", label, "-c", str(self.config), "--timeout", "20").returncode == 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.serve.kill()


def test_file_written_in_place_is_followed_and_the_pool_stays_registered(site: Site) -> None:
    site.write("second")
    site.serve.await_log("config_changed", changed=["cloud"], settings=["labels"])
    assert site.offers("second")
    assert site.serve.stop() == 0
    assert len([entry for entry in site.serve.log if entry["event"] == "pool_registered"]) == 1


def test_file_behind_a_replaced_link_is_followed(site: Site, tmp_path: Path) -> None:
    """Kubernetes replaces the files of a ConfigMap in this way."""
    for version in ("one", "two"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "nodepool.yaml").write_text(site.text(version))
        link = tmp_path / "new"
        link.symlink_to(folder / "nodepool.yaml")
        os.replace(link, site.config)  # noqa: PTH105
        site.serve.await_log("config_changed", count=1 if version == "one" else 2)
        assert site.offers(version)


def test_bad_file_leaves_the_old_configuration_in_force_and_says_where_it_is_wrong(site: Site) -> None:
    site.config.write_text(site.text("second") + "labelz: []\n")
    problem = site.serve.await_log("config_problem")
    assert problem["detail"].startswith(f"{site.config}:9:1: unknown key 'labelz'")
    site.serve.await_log("config_refused", problems=1)
    good = site.folder / "good.yaml"
    good.write_text(site.text("first"))
    assert run("request", "first", "-c", str(good), "--timeout", "20").returncode == 0
    status, text = site.serve.get("/health/ready")
    assert (status, text.splitlines()[0]) == (200, "OK")
    assert f"refused: {problem['detail']}" in text
    site.write("second")
    site.serve.await_log("config_changed")
    assert site.offers("second")


def test_commands_work_and_status_says_what_is_in_force_while_the_yaml_is_broken(site: Site) -> None:
    site.config.write_text(site.text("second") + "  broken: [\n")
    problem = site.serve.await_log("config_problem")["detail"]
    assert problem.startswith(f"{site.config}:9:")
    for command in (
        ["list"],
        ["request-list"],
        ["label-list"],
        ["explain", "first"],
        ["pause", "cloud"],
        ["resume", "cloud"],
    ):
        done = run(*command, "-c", str(site.config))
        assert done.returncode == 0, done.stderr
    status = run("status", "-c", str(site.config)).stdout
    assert ": an older configuration is in force: the files were refused at " in status
    assert f": refused: {problem}\n" in status
    (launcher,) = json.loads(run("status", "--json", "-c", str(site.config)).stdout)["launchers"]
    assert launcher["config"]["problems"] == [problem]
    site.write("second")
    site.serve.await_log("config_changed")
    assert "refused" not in run("status", "-c", str(site.config)).stdout


def test_hangup_reads_the_files_again(site: Site) -> None:
    site.serve.process.send_signal(signal.SIGHUP)
    site.serve.await_log("config_unchanged")
    assert site.serve.stop() == 0
    assert site.serve.complaints == []


def test_other_signals_do_as_nodepools_or_better(site: Site) -> None:
    site.serve.process.send_signal(signal.SIGUSR2)
    stack = site.serve.await_log("task_stack", task="sweeper")["frames"]
    assert any("Sweeper.run" in frame for frame in stack)
    assert site.serve.stop(signal.SIGUSR1) == 0
    site.serve.await_log("draining")
