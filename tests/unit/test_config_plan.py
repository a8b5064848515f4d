"""``config plan``: which values differ, where the new ones stand, and that secrets stay secret."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import Field

from nodelaunch.cli.main import USAGE, main
from nodelaunch.cli.plan import DIFFERENT, SAME
from nodelaunch.config.file import Loaded, load_with_places
from nodelaunch.config.models import ProviderConfig
from nodelaunch.config.values import Difference, value_differences
from nodelaunch.drivers import DriverRegistry

OLD = """
embedded-store: {path: store.sqlite}
labels:
  - name: small
  - {name: big, max-ready-age: 60}
providers:
  - name: cloud
    driver: fake
    cloud-images: [{name: image}]
    pools:
      - name: main
        max-servers: 10
        labels:
          - {name: small, cloud-image: image, min-ram: 4096}
          - {name: big, cloud-image: image, min-ram: 8192}
  - name: lab
    driver: test
    pools: [{name: rack, labels: [small]}]
"""
SECRET = "hunter2"


def loaded(folder: Path, text: str, name: str = "new.yaml", **environ: str) -> Loaded:
    path = folder / name
    path.write_text(text)
    return load_with_places(path, drivers=DriverRegistry(), environ=environ)


def found(folder: Path, old: str, new: str, **environ: str) -> dict[str, Difference]:
    differences = value_differences(loaded(folder, old, "old.yaml", **environ), loaded(folder, new, **environ))
    return {each.path: each for each in differences}


def plan(capsys: pytest.CaptureFixture[str], folder: Path, old: str, new: str, *more: str) -> tuple[int, str]:
    (folder / "old.yaml").write_text(old)
    (folder / "new.yaml").write_text(new)
    code = main(["config", "plan", str(folder / "new.yaml"), "-c", str(folder / "old.yaml"), "--offline", *more])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_values_are_told_with_their_names_sides_and_places(tmp_path: Path) -> None:
    new = OLD.replace("max-servers: 10", "max-servers: 20").replace(", max-ready-age: 60", "")
    differences = found(tmp_path, OLD, new)
    assert set(differences) == {"labels[big].max-ready-age", "providers[cloud].pools[main].max-servers"}
    servers = differences["providers[cloud].pools[main].max-servers"]
    assert (servers.old.value, servers.new.value, servers.new.is_default) == (10, 20, False)
    assert servers.position is not None
    assert (servers.position.file, servers.position.line) == (str(tmp_path / "new.yaml"), 12)
    age = differences["labels[big].max-ready-age"]
    assert (age.old.value, age.new.value, age.new.is_default) == (60, 0, True)
    assert age.position is not None
    assert age.position.line == 5  # the label's, as the key is not there


def test_order_of_items_is_no_difference_of_their_values(tmp_path: Path) -> None:
    lines = OLD.splitlines()
    at = lines.index("          - {name: small, cloud-image: image, min-ram: 4096}")
    lines[at : at + 2] = [lines[at + 1].replace("8192", "16384"), lines[at]]
    assert set(found(tmp_path, OLD, "\n".join(lines))) == {"providers[cloud].pools[main].labels[big].min-ram"}


def test_what_is_there_on_one_side_only_is_one_difference(tmp_path: Path) -> None:
    new = OLD[: OLD.index("  - name: lab")] + "  - {name: other, driver: test}\n"
    differences = found(tmp_path, OLD, new)
    assert {path: each.kind for path, each in differences.items()} == {
        "providers[lab]": "removed", "providers[other]": "added",
    }  # fmt: skip


def test_another_driver_is_told_without_all_that_comes_with_it(tmp_path: Path) -> None:
    new = OLD.replace("driver: test\n    pools: [{name: rack, labels: [small]}]", "driver: fake")
    assert set(found(tmp_path, OLD, new)) == {"providers[lab].driver"}


# -- the command ----------------------------------------------------------------------------------------------------


def test_nothing_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = plan(capsys, tmp_path, OLD, OLD, "--detailed-exitcode")
    assert (code, said) == (SAME, "nothing changes\nnodes: not known (--offline)\n")


def test_effects_are_told_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = OLD[: OLD.index("  - name: lab")].replace("max-servers: 10", "max-servers: 20")
    new = new.replace("path: store.sqlite", "path: other.sqlite").replace("max-ready-age: 60", "max-ready-age: 90")
    new += "      - name: second\n  - {name: other, driver: test, pools: [{name: rack}]}\n"
    code, said = plan(capsys, tmp_path, OLD, new)
    where = tmp_path / "new.yaml"
    assert code == SAME
    for line in (
        "+ provider other starts, with driver test",
        "~ provider cloud continues, its driver restarts",
        f"    providers[cloud].pools[main].max-servers: 10 -> 20    {where}:12:9",
        f"    providers[cloud].pools[second]: added    {where}:16:9",
        "- provider lab drains, and stops when it has no nodes left",
        "+ pool cloud/second starts",
        "+ pool other/rack starts",
        "- pool lab/rack drains",
        "~ labels: takes effect at once",
        f"    labels[big].max-ready-age: 60 -> 90    {where}:5:17",
        "! embedded-store: NEEDS A RESTART; a reload does not change it",
        f'    embedded-store.path: "store.sqlite" -> "other.sqlite"    {where}:2:18',
    ):
        assert line in said.splitlines(), said


def test_exit_code_says_whether_something_changes_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = OLD.replace("max-servers: 10", "max-servers: 20")
    assert plan(capsys, tmp_path, OLD, new)[0] == SAME
    assert plan(capsys, tmp_path, OLD, new, "--detailed-exitcode")[0] == DIFFERENT


def test_providers_that_change_only_because_images_do_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = plan(capsys, tmp_path, OLD, OLD + "diskimages: [{name: other}]\n")
    assert (
        "~ provider cloud continues, its driver restarts because diskimages changed\n~ provider lab continues" in said
    )


def test_wrong_configuration_is_complained_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = plan(capsys, tmp_path, OLD, OLD.replace("max-servers", "max-server"))
    assert code == USAGE
    assert f"{tmp_path / 'new.yaml'}:12:9: unknown key 'max-server'" in said


def test_json_has_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = OLD.replace("max-servers: 10", "max-servers: 20")
    _, said = plan(capsys, tmp_path, OLD, new, "--json")
    assert json.loads(said) == {
        "changes": {"changed": ["cloud"]},
        "values": [
            {
                "path": "providers[cloud].pools[main].max-servers", "change": "changed",
                "old": 10, "old_is_default": False, "new": 20, "new_is_default": False,
                "is_hidden": False, "needs_restart": False,
                "file": str(tmp_path / "new.yaml"), "line": 12, "column": 9,
            }
        ],
        "nodes": None,
        "nodes_unknown": "--offline",
    }  # fmt: skip


# -- secrets --------------------------------------------------------------------------------------------------------

ZOOKEEPER = """
zookeeper-servers: [{{host: localhost, port: 2181}}]
zookeeper-auth: {{user: launcher, password: {0}}}
diskimages: [{{name: image, env-vars: {{TOKEN: {0}, "{0}-key": x}}}}]
"""


def test_secrets_are_compared_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--json"]):
        _, said = plan(capsys, tmp_path, ZOOKEEPER.format("before"), ZOOKEEPER.format(SECRET), *options)
        assert SECRET not in said
        assert "before" not in said
        for path in ("zookeeper-auth.password", "diskimages[image].env-vars"):
            assert path in said


def test_values_of_the_environment_and_of_a_secure_file_are_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODEPOOL_SECRET", SECRET)
    text = """
labels: [{{name: "{1}"}}]
providers:
  - name: cloud
    driver: fake
    region-name: {0}
    pools: [{{name: main, node-attributes: {{"{1}": a}}}}]
"""
    new = text.format("%(NODEPOOL_SECRET)", "%(NODEPOOL_SECRET)-2").replace(": a}", ": b}")
    for options in ([], ["--json"]):
        _, said = plan(capsys, tmp_path, text.format("before", "%(NODEPOOL_SECRET)-2"), new, *options)
        assert SECRET not in said
        assert "providers[cloud].region-name" in said
        assert "node-attributes.(hidden)" in said
    secure = tmp_path / "secure.yaml"
    secure.write_text(f"zookeeper-servers: [{{host: {SECRET}, port: 2181}}]")
    _, said = plan(
        capsys, tmp_path, "zookeeper-servers: [{host: a, port: 2181}]", "labels: []", "--new-secure", str(secure)
    )
    assert "zookeeper-servers" in said
    assert SECRET not in said


class Tokened(ProviderConfig):
    token: str = Field(json_schema_extra={"writeOnly": True})


class OneDriver:
    names = ("tokened",)

    def get(self, _name: str) -> SimpleNamespace:
        return SimpleNamespace(config_model=Tokened)


def test_options_that_a_driver_calls_secret_are_not_shown(tmp_path: Path) -> None:
    sides = []
    for token in ("before", SECRET):
        path = tmp_path / f"{token}.yaml"
        path.write_text(f"providers: [{{name: cloud, driver: tokened, token: {token}}}]")
        sides.append(load_with_places(path, drivers=OneDriver(), environ={}))
    (difference,) = value_differences(*sides)
    assert (difference.path, difference.is_hidden) == ("providers[cloud].token", True)
    assert (difference.old.value, difference.new.value) == (None, None)
