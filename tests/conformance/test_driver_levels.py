"""`nodelaunch driver check` finds the drivers of this tree at the levels that docs/driver-policy.md has for them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from nodelaunch.cli.main import main
from nodelaunch.conformance import Level
from nodelaunch.conformance.remembered import folder
from support import garm
from support.processes import EXAMPLES, why_not

PAGE = (Path(__file__).parents[2] / "docs" / "driver-policy.md").read_text()
ROWS = re.findall(r"^\| `([\w-]+)`[^|]* \| (\S+) \| (\S+) \|$", PAGE.partition("## The list")[2], re.MULTILINE)
ELSEWHERE = {"openstack": ["silver", "gold"], "metastatic": ["silver", "silver"]}
"""Levels that are checked in tests/real_openstack/test_conformance.py and test_process.py, and in
test_metastatic_driver.py.
"""
CLAIMS = [
    (name, isolation, Level(level))
    for name, *levels in ROWS
    for isolation, level in zip(("inline", "process"), levels, strict=True)
    if level != "-" and name not in ELSEWHERE
]
STATIC = """
provider:
  pools:
    - name: main
      nodes:
        - {name: 127.0.0.1, labels: [small], connection-port: 1, timeout: 1}
"""


def test_table_has_every_driver_that_can_be_checked_here() -> None:
    examples = {path.name for path in EXAMPLES.glob("nodelaunch-driver-*")}
    assert {name for name, *_ in ROWS} == {"fake", "garm", "static", "test", *ELSEWHERE, *examples}
    assert {name: levels for name, *levels in ROWS if name in ELSEWHERE} == ELSEWHERE
    assert len(CLAIMS) == 8 + len(examples)


@pytest.mark.parametrize(("name", "isolation", "level"), CLAIMS, ids=str)
def test_driver_reaches_just_the_level_it_is_listed_with(
    name: str, isolation: str, level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    target, options = name, ["--isolation", isolation]
    if name.startswith("nodelaunch-driver-"):
        if reason := why_not(name.rpartition("-")[2]):
            pytest.skip(reason)
        target, options = str(EXAMPLES / name), []
    elif name == "static":
        (tmp_path / "check.yaml").write_text(STATIC)
        options += ["--config", str(tmp_path / "check.yaml")]
    elif name == "garm":
        if reason := garm.why_not():
            pytest.skip(reason)
        (tmp_path / "check.yaml").write_text(json.dumps({"provider": garm.provider_content(tmp_path)}))
        options += ["--config", str(tmp_path / "check.yaml")]
    report = tmp_path / "report.json"
    wanted = level if level > Level.NONE else Level.BRONZE
    code = main(["driver", "check", target, *options, "--timeout", "60", "--level", wanted, "--report", str(report)])
    content = json.loads(report.read_text())
    assert content["level"] == level.value, [each for each in content["checks"] if each["verdict"] == "failed"]
    assert code == (0 if level > Level.NONE else 1)
    assert content["leftovers"] == []
    (kept,) = folder().iterdir()
    (outcome,) = json.loads(kept.read_text())["levels"].values()
    assert outcome["level"] == level.value
    shutil.rmtree(tmp_path / "state")
