"""`nodelaunch driver check`: what it prints, writes and exits with, and what it says when it can't check."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from conformance.mutants import process
from nodelaunch.cli.main import main
from nodelaunch.conformance.targets import CheckRequest, driver_under_test
from support.commands import parsed
from support.fakeclouds import NoScanner

PAGE = Path(__file__).parents[2] / "docs" / "checking-a-driver.md"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def an_executable(name: str, folder: Path) -> str:
    path = folder / f"nodelaunch-driver-{name.lower()}"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {process.__file__} {name}\n")
    path.chmod(0o755)
    return str(path)


def check(*arguments: str) -> int:
    return main(["driver", "check", "--timeout", "20", *arguments])


def test_level_that_is_reached_and_what_the_next_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("fake", "--level", "silver") == 0
    printed = capsys.readouterr().out
    assert "D2.1  bronze  metadata_is_listed_unchanged " in printed
    assert (
        "\ndriver fake: silver\n  needed for gold:\n    a_killed_create_leaves_nothing_hidden: needs a process"
        in printed
    )
    assert "create_instance" in printed.partition("median")[2]
    assert check("fake", "--level", "gold", "--report", "-") == 1
    assert json.loads(capsys.readouterr().out)["level"] == "silver"


def test_failure_is_shown_with_its_rule_promise_and_what_was_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit = tmp_path / "junit.xml"
    assert check(an_executable("SpeaksInTongues", tmp_path), "--junit", str(junit)) == 1
    printed = capsys.readouterr().out
    assert "its_lines_are_messages                    FAILED" in printed
    assert "rule P4 promises: Each line is one JSON-RPC 2.0 object" in printed
    assert "seen: the driver sent invalid JSON: 'DEBUG: creating" in printed
    assert "not made, because its_lines_are_messages failed" in printed
    assert "driver speaksintongues: none\n  needed for bronze:" in printed
    assert len(printed.splitlines()) < 20  # what could not tell anything is counted, not listed
    assert '<failure message="the driver sent invalid JSON' in junit.read_text()


def test_failure_of_an_instances_life_is_told_with_the_rule_of_the_call_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(an_executable("NeverStarts", tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "rule D4.1 promises: Waits for one instance work twice" in printed
    assert "JSON-RPC" not in printed
    assert "instance.wait was refused as permanent: not started in time" in printed


def test_executable_that_can_not_even_say_what_it_is_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(an_executable("HasAnotherToken", tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "it_proves_to_have_the_token               FAILED" in printed
    assert "seen: the driver's proof of the token is wrong" in printed
    assert check(an_executable("HasAnIdeaOfSchemas", tmp_path)) == 1
    assert "the driver's schema for label: /type has to be one of array" in capsys.readouterr().out


def test_waived_level_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waivers = tmp_path / "waivers.yaml"
    item = "  - check: {}\n    reason: it is a model\n    expires: 2999-01-01\n"
    names = ("a_killed_create_leaves_nothing_hidden", "what_was_begun_is_gone_on_with")
    waivers.write_text("waivers:\n" + "".join(map(item.format, names)))
    assert check("fake", "--level", "gold", "--waivers", str(waivers)) == 0
    assert "driver fake: gold (2 waived)\n  waived: a_killed_create" in capsys.readouterr().out


def test_secrets_of_its_configuration_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "from-the-environment")
    target = an_executable("Healthy", tmp_path)
    config = tmp_path / "check.yaml"
    config.write_text(
        "provider:\n  state-dir: /nowhere\n  password: hunter2-hunter2\n  pass-environment: [TOKEN_OF_MINE]\n"
        "  pools:\n    - name: main\n      labels:\n        - name: small\n"
    )
    under_test = driver_under_test(CheckRequest(target=target, config=str(config)), tmp_path, NoScanner())
    assert under_test.secrets == ("hunter2-hunter2", "from-the-environment")
    assert (under_test.pool, under_test.label) == ("main", "small")
    assert under_test.program is not None
    assert under_test.program.command.environment == ("TOKEN_OF_MINE",)


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("provider:\n  size: 5\n", (), "check.yaml:2:3: unknown key 'size'"),
        ("provider:\n  boot-time: x\n", (), "check.yaml:2:14: boot-time: a number is expected"),
        ("providers: []\n", (), "the file has no 'provider'"),
        ("providers: [{name: a, driver: fake}, {name: b, driver: fake}]\n", (), "choose one of a, b with --provider"),
        ("providers: [{name: a, driver: fake}]\n", ("--provider", "c"), "no provider 'c'"),
        ("provider: {}\n", (), "the provider has no such pool and label (any); it has: none"),
        ("provider: [\n", (), "check.yaml:2:1: "),
    ],
)
def test_configuration_that_will_not_do_is_told(
    content: str, more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "check.yaml"
    config.write_text(content)
    assert check("fake", "--config", str(config), *more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nosuch",), "unknown driver 'nosuch'"),
        (("static",), "driver static has no example configuration; name a YAML file"),
        (("metastatic",), "needs the launcher's store"),
        (("fake", "--label", "large"), "(--label large); it has: main/small"),
        (("fake", "--waivers", "/nowhere.yaml"), "/nowhere.yaml:"),
    ],
)
def test_what_can_not_be_checked_is_told(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(*arguments) == 2
    assert message in capsys.readouterr().err


def test_executable_can_not_run_inline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(an_executable("Healthy", tmp_path), "--isolation", "inline") == 2
    assert "is an executable; it can't run inline" in capsys.readouterr().err


def test_commands_and_code_of_the_page_can_be_read() -> None:
    lines = re.findall(r"^\$ (nodelaunch .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        assert parsed(shlex.split(line)[1:])[1].args
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, str(PAGE), "exec")


def test_configuration_of_the_page_works(tmp_path: Path) -> None:
    content = PAGE.read_text().partition("```yaml\nprovider:")[2].partition("```")[0]
    config = tmp_path / "check.yaml"
    config.write_text("provider:" + content.replace("/tmp/nodes-of-mine", str(tmp_path / "nodes")))
    example = Path(__file__).parents[2] / "examples" / "process-drivers" / "nodelaunch-driver-command"
    assert check(str(example), "--config", str(config), "--level", "silver") == 0
