"""Every configuration in Nodepool's documentation and tests loads, or is refused with a reason; what loads in part is
migrated, and twice is the same."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from nodelaunch.cli.main import USAGE, main
from nodelaunch.config.file import load_config
from nodelaunch.config.migrating import Migrated, migrate
from nodelaunch.config.models import Config
from nodelaunch.drivers import DriverRegistry
from nodelaunch.errors import ConfigError
from peers.test_nodepool_samples import ABSENT, STRICTER, WRONG, filled_in
from support.certificates import Certificates
from support.nodepool import (  # noqa: F401  fixtures
    Nodepool,
    PeerMissingError,
    commands_fixture,
    documentation,
    nodepool_fixture,
)

pytestmark = pytest.mark.nodepool

DRIVERS = DriverRegistry()
SUPPORTED = ("configuration", "metastatic", "openstack", "static")
"""Pages of the documentation about what is here, too."""
MISTAKEN = {("configuration", 251): "unknown key 'base'"}
"""Examples that Nodepool's own validator refuses, by page and line, with the error."""
ENVIRON = {"NODEPOOL_PORT": "2281"}
OWN_DOUBTS = (
    "no pool here offers",
    "no pool offers this label",
    "more than the pools that offer",
    "this pool offers no label",
    "host-key",
)
"""Beginnings of warnings that are about what an author meant, and that were there before."""


def attempt(path: Path, new: Path) -> Migrated | ConfigError:
    try:
        return migrate(path, drivers=DRIVERS, environ=ENVIRON, new_name=str(new))
    except ConfigError as error:
        return error


def load(path: Path) -> Config:
    return load_config(path, drivers=DRIVERS, environ=ENVIRON)[0]


def check_migrated(path: Path, made: Migrated, new: Path) -> None:
    """The outcome loads, says the same as far as it goes, and is its own outcome."""
    new.write_text(made.text)
    config = load(new)
    for warning in made.warnings:
        assert any(doubt in warning.message for doubt in (*OWN_DOUBTS, "zookeeper-tls")), warning
    again = attempt(new, new)
    assert isinstance(again, Migrated), again
    assert (again.text, again.left_out, again.changed) == (made.text, (), ())
    problems: set[tuple[int, int]] = set()
    try:
        assert config == load(path)
    except ConfigError as error:
        problems = {(one.line, one.column) for one in error.problems}
    assert problems <= {(one.line, one.column) for one in made.left_out}


def test_configurations_of_nodepools_tests_are_migrated_or_refused_with_a_reason(
    nodepool: Nodepool, tmp_path: Path, certificates: Certificates
) -> None:
    refused, with_gaps = set(), set()
    for name, path in filled_in(nodepool, tmp_path, certificates).items():
        new = tmp_path / "new.yaml"
        made = attempt(path, new)
        if isinstance(made, ConfigError):
            assert made.problems
            refused.add(name)
            continue
        check_migrated(path, made, new)
        if made.left_out:
            with_gaps.add(name)
    assert refused <= {*WRONG, *STRICTER}, refused
    assert {"clouds.yaml", "config_validate/yaml_error.yaml", "gce.yaml", *STRICTER} <= refused
    assert {"aws/aws.yaml", "config_validate/static_error.yaml"} <= with_gaps


# -- documentation --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages() -> Path:
    try:
        return documentation()
    except PeerMissingError as error:
        pytest.skip(str(error))


def blocks(page: Path) -> Iterator[tuple[int, Any]]:
    """Line and data of each piece of YAML in *page*."""
    lines = page.read_text().split("\n")
    for number, line in enumerate(lines):
        if not re.fullmatch(r"\s*\.\. code-block:: yaml\s*", line):
            continue
        outer, body = indent(line), []
        for following in lines[number + 1 :]:
            if following.strip() and indent(following) <= outer:
                break
            body.append(following)
        text = textwrap.dedent("\n".join(body))
        yield number + 1, YAML(typ="safe", pure=True).load(text)


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def whole(page: str, data: Any) -> dict[str, Any]:
    """The configuration that *data*, a piece of *page*, is a part of, with as little more as will do."""
    driver = page.replace("-", "")
    provider = {"name": "provider", "driver": driver, **({"cloud": "cloud"} if driver == "openstack" else {})}
    if isinstance(data, list):
        data = {"providers": data}
    elif page != "configuration" and "labels" in data:
        data = {"providers": [{**provider, "pools": [{"name": "pool", "labels": data["labels"]}]}]}
    elif page != "configuration" and "providers" not in data:
        data = {"providers": [{**provider, **data}]}
    labels = {label["name"]: label for label in data.get("labels", [])}
    images = {image["name"]: image for image in data.get("diskimages", [])}
    for each in data.get("providers", []):
        complete(each, labels, images)
    return {**data, "labels": list(labels.values()), "diskimages": list(images.values())}


def complete(provider: dict[str, Any], labels: dict[str, Any], images: dict[str, Any]) -> None:
    """Define what *provider* names."""
    own = {kind: {image["name"]: image for image in provider.get(kind, [])} for kind in ("diskimages", "cloud-images")}
    for pool in provider.get("pools", []):
        for label in (*pool.get("labels", []), *pool.get("nodes", [])):
            names = label.get("labels", label["name"])
            for name in [names] if isinstance(names, str) else names:
                labels.setdefault(name, {"name": name})
            if (backing := label.get("backing-label")) is not None:
                labels.setdefault(backing, {"name": backing})
            if provider["driver"] == "openstack":
                if "diskimage" not in label:
                    label.setdefault("cloud-image", "image")
                if "flavor-name" not in label:
                    label.setdefault("min-ram", 1)
            for kind in own:
                if (image := label.get(kind[:-1])) is not None:
                    own[kind].setdefault(image, {"name": image})
    provider.update((kind, list(found.values())) for kind, found in own.items() if found)
    for name in own["diskimages"]:
        images.setdefault(name, {"name": name})


def test_configurations_of_nodepools_documentation_load_or_lack_their_driver(
    pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, new = tmp_path / "nodepool.yaml", tmp_path / "new.yaml"
    found = dict.fromkeys(SUPPORTED, 0)
    for page in sorted(pages.glob("*.rst")):
        for line, data in blocks(page):
            with path.open("w") as file:
                YAML(typ="safe", pure=True).dump(whole(page.stem, data), file)
            code = main(["config", "check", str(path)])
            said = capsys.readouterr()
            if page.stem in SUPPORTED:
                found[page.stem] += 1
                mistake = MISTAKEN.get((page.stem, line), "")
                assert mistake in said.err
                assert code == (USAGE if mistake else 0), (page.name, line, said.err)
            else:
                assert code == USAGE, (page.name, line)
                assert re.search(f"unknown driver '({'|'.join(ABSENT)})'", said.err), (page.name, line, said.err)
            made = attempt(path, new)
            assert isinstance(made, Migrated), (page.name, line, made)
            check_migrated(path, made, new)
    assert found == {"configuration": 4, "metastatic": 2, "openstack": 6, "static": 1}
