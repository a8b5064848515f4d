"""Options of a GARM provider are checked by what it says of them, each mistake with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodelaunch.config.changes import differences
from nodelaunch.errors import ConfigError, ConfigProblem
from nodelaunch.launcher import load_config
from support import garm
from support.process import run

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "docs" / "drivers" / "garm.md"
CONFIG = """\
labels: [{{name: small}}]
providers:
  - name: local
    driver: garm
    executable: {executable}
    config-file: {config_file}
    interface-version: {version}
    pools:
      - name: main
        labels:
          - name: small
            image: debian
            flavor: tiny
            extra-specs:
              {specs}
"""


def written(
    home: Path,
    *,
    specs: str = "max_sessions: 3",
    file: str | None = None,
    version: str = "v0.1.1",
    executable: str = "",
) -> Path:
    config_file = home / "provider.toml"
    config_file.write_text(f'state_dir = "{home}/state"\n' if file is None else file)
    path = home / "nodepool.yaml"
    chosen = executable or garm.executable(home)
    path.write_text(CONFIG.format(executable=chosen, config_file=config_file, version=version, specs=specs))
    return path


def problem(path: Path) -> ConfigProblem:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (only,) = caught.value.problems
    return only


def test_options_that_the_provider_says_are_right_are_taken(tmp_path: Path) -> None:
    (provider,) = load_config(written(tmp_path)).providers
    (label,) = provider.pools[0].labels  # type: ignore[attr-defined]
    assert label.specs() == {"max_sessions": 3}


def test_the_same_read_again_is_the_same_and_another_option_is_a_change(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = load_config(path)
    assert before == load_config(path)
    assert differences(before, load_config(written(tmp_path, specs="max_sessions: 4"))).changed == ("local",)


@pytest.mark.parametrize(("specs", "column", "words"), [
    ("max_session: 3", 15, "did you mean 'max_sessions'"),
    ("max_sessions: 0", 29, "must be at least 1"),
    ("max_sessions: many", 29, "a whole number is expected"),
])  # fmt: skip
def test_mistake_in_the_extra_specs_is_placed(tmp_path: Path, specs: str, column: int, words: str) -> None:
    found = problem(written(tmp_path, specs=specs))
    assert (found.line, found.column) == (15, column)
    assert words in found.message


def test_unknown_key_beside_them_is_refused_all_the_same(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("flavor: tiny", "flavor: tiny\n            flavour: tiny"))
    assert "did you mean 'flavor'" in problem(path).message


def test_with_the_older_interface_extra_specs_are_the_providers_matter(tmp_path: Path) -> None:
    garm.break_with(tmp_path, "hangs")  # it is not even started
    assert load_config(written(tmp_path, specs="max_session: 3", version="v0.1.0")).providers


@pytest.mark.parametrize(("file", "words"), [
    ("port = 2222\n", "state_dir: Field required"),
    ('state_dir = "/tmp/x"\nport = "secret"\n', "port: Input should be a valid integer"),
    ('state_dir = "/tmp/x"\nprot = 1\n', "prot: Extra inputs are not permitted"),
    ("state_dir = \n", "no TOML"),
])  # fmt: skip
def test_mistake_in_its_own_file_is_told_at_the_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, words: str
) -> None:
    """The example would refuse to say anything with such a file; another provider may not."""
    path = written(tmp_path, file=file, executable=str(answering(tmp_path)))
    found = problem(path)
    assert (found.line, found.column) == (6, 18)
    assert words in found.message
    assert "secret" not in found.message


def answering(home: Path) -> Path:
    """Return a provider that gives its own list of options, for any content of its file."""
    good = home / "good.toml"
    good.write_text('state_dir = "/tmp/x"\n')
    path = home / "answering"
    path.write_text(f"#!/bin/sh\nGARM_PROVIDER_CONFIG_FILE={good} exec {garm.EXAMPLE}\n")
    path.chmod(0o755)
    return path


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "provider.toml").unlink()
    found = problem(path)
    assert (found.line, found.column) == (6, 18)
    assert "can't be read" in found.message


@pytest.mark.parametrize(("fault", "words"), [
    ("exits 1", "exit code 1: GetConfigJSONSchema exits 1; if it has interface v0.1.0 only"),
    ("garbage", "printed no JSON: 'Listening on port 8080"),
])  # fmt: skip
def test_provider_that_does_not_say_is_told_at_the_executable(tmp_path: Path, fault: str, words: str) -> None:
    path = written(tmp_path)
    garm.break_with(tmp_path, fault)
    found = problem(path)
    assert (found.line, found.column) == (5, 17)
    assert words in found.message


def test_executable_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = problem(written(tmp_path, executable="/nowhere/provider"))
    assert found.line == 5
    assert "could not be started: /nowhere/provider: No such file or directory" in found.message


def test_names_that_do_not_fit_into_an_instances_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, version="v0.1.0")
    path.write_text(path.read_text().replace("name: local", "name: " + "provider-with-a-long-name-" * 2))
    assert "characters too long" in problem(path).message


def test_config_check_tells_the_place(tmp_path: Path) -> None:
    path = written(tmp_path, specs="max_session: 3")
    done = run("config", "check", str(path))
    assert done.returncode != 0
    assert f"{path}:15:15: " in done.stdout + done.stderr


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(), re.DOTALL))
def test_what_the_manual_shows_is_right(tmp_path: Path, block: str) -> None:
    path = tmp_path / "nodepool.yaml"
    path.write_text(block)
    assert load_config(path).providers


def test_manual_has_every_key() -> None:
    from nodelaunch.drivers.garm.config import GarmLabel, GarmPool, GarmProvider

    named = set(re.findall(r"^\| `([\w-]+)` \|", MANUAL.read_text(), re.MULTILINE))
    for model in (GarmProvider, GarmPool, GarmLabel):
        own = {info.alias for info in model.model_fields.values()} - {"pools", "labels", "isolation"}
        common = {"name", "driver", "max-concurrency", "priority", "max-servers", "node-attributes"}
        assert own - common <= named, own - common - named
