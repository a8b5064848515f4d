"""``nodelaunch fake-cloud``, and that its manual is true."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from nodelaunch.cli.main import main
from nodelaunch.config.file import load_config
from nodelaunch.config.models import ProviderConfig
from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.controls import FAULTS, SETTINGS

MANUAL = (Path(__file__).parents[2] / "docs" / "drivers" / "fake.md").read_text()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An empty fake cloud's file."""
    path = tmp_path / "cloud.sqlite"
    cloud = FakeCloud(path)
    cloud.servers()
    cloud.close()
    return path


@pytest.fixture
def run(file: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the command on the file; gives its exit code, what it says, and what it complains of."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["fake-cloud", str(file), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_show_tells_of_instances_settings_and_faults(run) -> None:
    _, made, _ = run("add-instance", "--metadata", "owner=somebody=else", "--flavor", "Unreal Flavor")
    run("set", "boot-time=2.5", "missing-images=debian,ubuntu")
    run("fail", "create", "--times", "3", "--kind", "capacity")
    run("fail", "create", "--leave-instance", "--without-id")
    code, text, err = run("show")
    assert (code, err) == (0, "")
    assert re.sub(r"\d+ s old", "new", text).splitlines() == [
        f"{made.strip()}  foreign  active  az1  new",
        "1 instances, 4 cores, 8192 ram",
        "set: boot-time=2.5",
        "set: missing-images=debian,ubuntu",
        "pending: create fails (capacity), 3 times",
        "pending: create fails (error) and leaves its instance without its id, once",
    ]
    shown = json.loads(run("show", "--json")[1])
    assert shown["instances"][0]["metadata"] == {"owner": "somebody=else"}
    assert shown["used"] == {"instances": 1, "cores": 4, "ram": 8192}
    assert shown["settings"] == {"boot-time": 2.5, "missing-images": ["debian", "ubuntu"]}
    assert [fault["kind"] for fault in shown["faults"]] == ["capacity", "error"]


def test_settings_and_faults_are_taken_back(run) -> None:
    run("set", "boot-time=2.5", "max-servers=1")
    run("set", "boot-time=")
    run("fail", "delete")
    run("heal")
    shown = json.loads(run("show", "--json")[1])
    assert (shown["settings"], shown["faults"]) == ({"max-servers": 1}, [])


def test_instance_breaks_and_vanishes(run) -> None:
    instance_id = run("add-instance")[1].strip()
    assert run("set-state", instance_id, "error")[0] == 0
    assert json.loads(run("show", "--json")[1])["instances"][0]["state"] == "error"
    assert run("remove-instance", instance_id)[0] == 0
    assert [json.loads(line)["what"] for line in run("log")[1].splitlines()] == ["create", "error", "gone"]


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["set", "boot-time=soon"], "boot-time: 'soon' is invalid; expected a number, 0 or more"),
    (["set", "bot-time=1"], "no setting 'bot-time'; there are: boot-time, "),
    (["fail", "delete", "--kind", "quota"], "delete can't fail as 'quota'; it can as: error, unavailable, never"),
    (["fail", "create", "--times", "0"], "times is 0; it must be 1 or more"),
    (["fail", "create", "--without-id"], "--without-id needs --leave-instance"),
    (["remove-instance", "x"], "no instance x"),
    (["set-state", "x", "error"], "no instance x"),
])  # fmt: skip
def test_mistake_is_explained_and_changes_nothing(run, arguments: list[str], complaint: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"nodelaunch: {complaint}")
    shown = json.loads(run("show", "--json")[1])
    assert (shown["instances"], shown["settings"], shown["faults"]) == ([], {}, [])


def test_missing_file_is_made_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "cloud.sqlite"
    assert main(["fake-cloud", str(path), "set", "boot-time=1"]) == 1
    assert "there is no fake cloud" in capsys.readouterr().err
    assert not path.exists()
    assert main(["fake-cloud", str(path), "--create", "set", "boot-time=1"]) == 0
    assert path.exists()


def test_file_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nodelaunch.yaml"
    path.write_text("labels: []\n")
    assert main(["fake-cloud", str(path), "show"]) == 1
    assert capsys.readouterr().err == f"nodelaunch: fake cloud {path}: file is not a database\n"


# -- the manual -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL))
def test_documented_configuration_loads(example: str, tmp_path: Path) -> None:
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(example)
    config, warnings = load_config(path, drivers=DriverRegistry(), environ={})
    assert config.providers[0].pools[0].label_names
    assert warnings == ()


def documented_commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", MANUAL, re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if line.startswith("nodelaunch fake-cloud")]


def test_documented_commands_work(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands run in the page's order, on one file; ``ID`` stands for the instance that was added."""
    assert len(documented_commands()) > 5
    made = ""
    for command in documented_commands():
        words = shlex.split(command.replace("ID", made, 1) if made else command, comments=True)
        words = [str(file) if word.endswith(".sqlite") else word for word in words[1:]]
        assert main(words) == 0, command
        out = capsys.readouterr().out
        made = out.strip() if "add-instance" in words else made


def test_every_option_setting_and_fault_is_documented() -> None:
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", MANUAL, re.MULTILINE))
    provider = {
        name.replace("_", "-") for name in FakeProvider.model_fields.keys() - ProviderConfig.model_fields.keys()
    }
    assert provider | set(SETTINGS) | set(FAULTS) <= rows
