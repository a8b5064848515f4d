"""Reports for programs have what docs/checking-a-driver.md says; schemas that are none are found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from nodelaunch.conformance import Latency, Level, Report, Result, Verdict
from nodelaunch.conformance.formats import as_json, as_junit
from nodelaunch.conformance.schemacheck import faults_of_schema
from nodelaunch.driverhost.schemas import schemas_of
from nodelaunch.drivers import DriverRegistry

PAGE = (Path(__file__).parents[2] / "docs" / "checking-a-driver.md").read_text()
REPORT = Report(
    "mine",
    (
        Result("P4", "its_lines_are_messages", Verdict.PASSED, took_s=0.25),
        Result("D6.1", "ours_are_listed_once", Verdict.FAILED, "listed\x00 <2> times", promise="Each once."),
        Result("D13", "machines_are_named_alike", Verdict.INAPPLICABLE, "it makes them"),
        Result("D8.2", "a_killed_create_leaves_nothing_hidden", Verdict.SKIPPED, "needs a process", Level.GOLD),
    ),
    latencies={"create_instance": Latency.of([0.3, 0.1, 0.2])},
)


def test_json_has_the_keys_that_are_told() -> None:
    content = json.loads(json.dumps(as_json(REPORT, isolation="process", digest="aa")))
    rows = "\n".join(
        re.findall(r"^\| (`.*)$", PAGE.partition("## Reports")[2].partition("## Waivers")[0], re.MULTILINE)
    )
    told = set(re.findall(r"`(\w+)`", rows)) - {"inline", "process", "socket"}
    assert told == set(content) - {"format"} | set(content["checks"][0]) | set(content["latencies"]["create_instance"])
    assert content["format"] == 1
    assert (content["level"], content["isolation"], content["digest"]) == ("none", "process", "aa")
    assert content["latencies"]["create_instance"] == {"count": 3, "median_s": 0.2, "p99_s": 0.3, "longest_s": 0.3}
    assert all(f"`{verdict.value}`" in PAGE for verdict in Verdict)


def test_junit_counts_and_can_be_parsed() -> None:
    suite = ET.fromstring(as_junit(REPORT))
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped")} == {
        "tests": "4", "failures": "1", "skipped": "2",
    }  # fmt: skip
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "listed? <2> times"
    assert failure.text == "rule D6.1: Each once."


@pytest.mark.parametrize("name", ["fake", "static", "test", "metastatic"])
def test_schemas_of_our_own_are_schemas(name: str) -> None:
    for schema in schemas_of(DriverRegistry().get(name).config_model).model_dump().values():
        assert faults_of_schema(schema) == []


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "text"}, "/type has to be one of"),
        ({"properties": {"a": 5}}, "/properties/a is neither"),
        ({"required": ["a", "a"]}, "/required has to be a list of texts, none twice"),
        ({"properties": {"a": {"required": True}}}, "/properties/a/required has to be"),
        ({"items": [{"type": "string"}]}, "/items has to be a schema"),
        ({"pattern": "("}, "/pattern has to be a regular expression"),
        ({"$ref": "#/$defs/gone"}, "/$ref: there is no #/$defs/gone"),
        ({"anyOf": []}, "/anyOf has to be a list of schemas"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "/$schema is not"),
        ({"minLength": -1}, "/minLength has to be a whole number"),
        ([], "the schema is neither"),
    ],
)
def test_what_is_no_schema_is_found(schema: Any, fault: str) -> None:
    (found,) = faults_of_schema(schema)
    assert found.startswith(fault), found


@pytest.mark.parametrize("schema", [True, {}, {"type": ["string", "null"]}, {"x-mine": 1}, {"enum": [1, None]}])
def test_what_is_a_schema_is_fine(schema: Any) -> None:
    assert faults_of_schema(schema) == []
