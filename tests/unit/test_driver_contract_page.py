"""docs/driver-contract.md names checks and tests that there are, all kinds of errors, and all capabilities."""

from __future__ import annotations

import json
import re
from pathlib import Path

from nodelaunch.conformance import CHECKS
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.cluster import CLUSTER_METHODS
from nodelaunch.driverhost.wire.handshake import CONTRACT
from nodelaunch.errors import ErrorKind

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "driver-contract.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows() -> dict[str, str]:
    """Return the rows of both tables of rules, by the rule."""
    tables = section("Rules for every driver") + section("Rules for drivers in processes")
    return dict(re.findall(r"^\| ([DP]\d+(?:\.\d)?) (\|.*)$", tables, re.MULTILINE))


def test_every_check_is_named_with_its_level_in_the_row_of_its_rule() -> None:
    for check in CHECKS:
        assert f"`{check.name}` ({check.level.value})" in rows()[check.rule], check


def test_tables_name_no_other_check_or_level() -> None:
    named = re.findall(r"`([a-z_]+)` \((\w+)\)", " ".join(rows().values()))
    assert set(named) == {(check.name, check.level.value) for check in CHECKS}


def test_every_test_is_there() -> None:
    there = {name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert set(re.findall(r"`(test_\w+)`", PAGE)) <= there


def test_minimum_driver_has_each_method_that_no_capability_names_with_its_parameters_and_an_answer() -> None:
    found = re.findall(r"^\| `([a-z.]+)` \|([^|]*)\| `(\{.*?\})` \|", section("Minimum driver"), re.MULTILINE)
    told = {name: (re.findall(r"`(\w+)`", params), json.loads(answer)) for name, params, answer in found}
    needed = {name: method for name, method in m.METHODS.items() if method.capability is None}
    assert set(told) == set(needed)
    for name, (params, answer) in told.items():
        assert params == [each for each in needed[name].params.model_fields if each != "deadline_s"], name
        needed[name].result.model_validate(answer)


def test_methods_of_the_minimum_driver_are_those_of_the_openrpc_document() -> None:
    methods = json.loads((TESTS.parent / "docs" / "driver-contract.openrpc.json").read_text())["methods"]
    plain = [
        each["name"] for each in methods if "result" in each and not {"x-capability", "x-answered-by"} & each.keys()
    ]
    assert re.findall(r"^\| `([a-z.]+)` \|", section("Minimum driver"), re.MULTILINE) == plain
    assert "these twelve methods" in section("Minimum driver")
    assert len(plain) == 12


def test_every_kind_and_capability_is_told() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section("Errors"), re.MULTILINE)
    assert sorted(rows) == sorted(ErrorKind)
    rows = re.findall(r"^\| `(\w+)` \|", section("Capabilities"), re.MULTILINE)
    assert rows == [*m.CAPABILITIES, m.LOCAL_PROCESSES, m.CLUSTER]


def test_methods_of_capabilities_are_told() -> None:
    for name, method in {**m.METHODS, **CLUSTER_METHODS}.items():
        if method.capability is not None:
            (row,) = re.findall(rf"^\| `{method.capability}` \| (.*)$", section("Capabilities"), re.MULTILINE)
            assert f"`{name}`" in row


def test_version_is_told() -> None:
    assert f"This is **version {CONTRACT.max}**." in PAGE
