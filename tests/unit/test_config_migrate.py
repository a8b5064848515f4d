"""``config migrate``: its output, the keys that it leaves out, and its reports on both."""

from __future__ import annotations

import copy
import io
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from nodelaunch.cli.main import USAGE, main
from nodelaunch.config.file import load_config
from nodelaunch.config.migrating import Migrated, migrate
from nodelaunch.config.models import Config
from nodelaunch.drivers import DriverRegistry
from nodelaunch.errors import ConfigError

DRIVERS = DriverRegistry()
OLD = """\
# of the launcher in room 3
elements-dir: /x
cron: {cleanup: 1}       # nobody reads it
zookeeper-servers:
  - host: zk01
    port: 02061
zookeeper-tls:
  cert: /c   # the cert
  key: /k
  ca: /ca
webapp:
  listen-address: 0.0.0.0
diskimages:
labels:
  # the small one
  - name: small
  - name: aws-only
    min-ready: 3
  # the big one
  - name: big
providers:
  # In the cloud of others
  - name: aws-1   # Ireland
    driver: aws
    pools:
      - name: main
        labels:
          - name: aws-only
          - name: small

  # The main one
  - name: fake-cloud
    hook: |
      some
      text # no comment

      more
    region-name: %(NODEPOOL_REGION)
    cloud-images: [{hook: 1, name: image, foo: [1, 2]}]
    pools:
      - hook: x   # first
        name: main
        max-cores:
        max-servers: -3
        labels:
          - {name: small, cloud-image: image, min-ram: 4096}
          - {name: big, cloud-image: image, min-ram: 4096, stuff: 3}
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes:
          - name: h1
            ssh-port: 0026
            labels: small
"""
NEW = """\
# of the launcher in room 3
elements-dir: /x
# left out by 'nodelaunch config migrate': unknown key 'cron'
# cron: {cleanup: 1}       # nobody reads it
zookeeper-servers:
  - host: zk01
    port: 1073
zookeeper-tls:
  cert: /c   # the cert
  check-host-name: false
  key: /k
  ca: /ca
webapp:
  listen_address: 0.0.0.0
# left out by 'nodelaunch config migrate': diskimages has no value; leave the key out, or write []
# diskimages:
labels:
  # the small one
  - name: small
  # left out by 'nodelaunch config migrate': label 'aws-only': only providers that were left out offer this label;\
 leave the label to Nodepool's launcher too
  # - name: aws-only
  #   min-ready: 3
  # the big one
  - name: big
providers:
  # In the cloud of others
  # left out by 'nodelaunch config migrate': unknown driver 'aws'
  # - name: aws-1   # Ireland
  #   driver: aws
  #   pools:
  #     - name: main
  #       labels:
  #         - name: aws-only
  #         - name: small

  # The main one
  - name: fake-cloud
    driver: fake
    # left out by 'nodelaunch config migrate': unknown key 'hook'
    # hook: |
    #   some
    #   text # no comment
    #
    #   more
    region-name: %(NODEPOOL_REGION)
    cloud-images: [{name: image}]
    pools:
      # left out by 'nodelaunch config migrate': unknown key 'hook'
      # hook: x   # first
      - name: main
        # left out by 'nodelaunch config migrate': max-cores has no value, which means no limit;\
 give a number, or leave the key out
        # max-cores:
        max-servers: 0
        labels:
          - {name: small, cloud-image: image, min-ram: 4096}
          - {name: big, cloud-image: image, min-ram: 4096}
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes:
          - name: h1
            connection-port: 22
            labels: small
"""


def migrated(folder: Path, text: str, name: str = "nodepool.yaml", **options: Any) -> Migrated:
    path = folder / name
    path.write_text(text, newline="")
    return migrate(path, drivers=DRIVERS, environ={"NODEPOOL_REGION": "north"}, **options)


def loaded(folder: Path, text: str) -> tuple[Config, tuple[object, ...]]:
    path = folder / "check.yaml"
    path.write_text(text)
    return load_config(path, drivers=DRIVERS, environ={"NODEPOOL_REGION": "north"})


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        migrated(folder, text)
    return str(caught.value)


def test_file_is_edited_in_places_and_keeps_its_comments(tmp_path: Path) -> None:
    made = migrated(tmp_path, OLD)
    assert made.text == NEW
    assert made.warnings == ()
    assert loaded(tmp_path, made.text)[1] == ()


def test_all_that_was_done_is_told_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    made = migrated(tmp_path, OLD)
    assert [(one.line, one.column) for one in made.left_out] == [
        (3, 1), (13, 1), (17, 5), (24, 13), (33, 5), (39, 21), (39, 43), (41, 9), (43, 9), (47, 60),
    ]  # fmt: skip
    assert made.left_out[0].message == "unknown key 'cron'; correct the key if it is misspelt; Nodepool ignores it too"
    assert made.left_out[3].message.startswith("unknown driver 'aws'; leave this provider to Nodepool's launcher")
    changed = [(6, 11), (7, 1), (12, 3), (32, 5), (44, 22), (54, 13), (54, 23)]
    assert [(one.line, one.column) for one in made.changed] == changed


def test_second_time_changes_nothing(tmp_path: Path) -> None:
    again = migrated(tmp_path, NEW)
    assert (again.text, again.left_out, again.changed) == (NEW, (), ())


def test_ends_of_lines_stay_as_they_are(tmp_path: Path) -> None:
    assert migrated(tmp_path, OLD.replace("\n", "\r\n")).text == NEW.replace("\n", "\r\n")


def test_lists_and_mappings_of_which_nothing_is_left_stay_lists_and_mappings(tmp_path: Path) -> None:
    made = migrated(
        tmp_path, "providers:   # all\n- name: a\n  driver: aws\n- {name: b, driver: gce}\nwebapp:\n  x: 1\n"
    )
    config, _ = loaded(tmp_path, made.text)
    assert config.providers == ()
    assert "providers: []   # all" in made.text
    assert "webapp: {}" in made.text


def test_items_behind_a_lone_dash_and_without_indentation(tmp_path: Path) -> None:
    text = "labels:\n-\n  x: 1\n  name: a\n-   # why\n  # because\n  name: b\n  x: 1\n"
    text += "providers:\n-\n  driver: aws\n  name: c\n"
    made = migrated(tmp_path, text)
    assert [label.name for label in loaded(tmp_path, made.text)[0].labels] == ["a", "b"]
    assert "# because" in made.text


def test_what_is_shared_by_an_anchor_is_edited_once(tmp_path: Path) -> None:
    text = """
labels: [{name: small}]
providers:
  - name: one
    driver: fake
    cloud-images: &images
      - name: image
        odd: 1
    pools: &pools
      - &pool
        name: main
        odd: 1
        labels: [{name: small, cloud-image: image, min-ram: 1}]
      - <<: *pool
        name: second
  - {name: two, driver: fake, cloud-images: *images, pools: *pools}
"""
    made = migrated(tmp_path, text)
    assert made.text.count("# odd: 1") == 2
    assert loaded(tmp_path, made.text)[1] == ()


def test_alias_of_something_left_out_is_refused_rather_than_broken(tmp_path: Path) -> None:
    text = """
labels: [{name: small}]
providers:
  - name: one
    driver: aws
    cloud-images: &images [{name: image}]
  - {name: two, driver: fake, cloud-images: *images}
"""
    assert "there is no anchor &images above this alias" in refused(tmp_path, text)


def test_key_that_only_some_users_of_an_anchor_know_is_refused(tmp_path: Path) -> None:
    text = """
labels: [&small {name: small, min-ready: 0}]
providers:
  - {name: one, driver: fake, cloud-images: [*small]}
"""
    assert "replace the aliases by their values" in refused(tmp_path, text)


def test_what_is_wrong_everywhere_is_refused_with_its_place(tmp_path: Path) -> None:
    said = refused(tmp_path, OLD.replace("min-ready: 3", "min-ready: three"))
    assert said.startswith(f"{tmp_path}/nodepool.yaml:18:16: min-ready: a whole number is expected")
    assert "unknown driver" not in said


def test_driver_that_lacks_its_library_is_not_left_out(tmp_path: Path) -> None:
    class Lacking(DriverRegistry):
        def get(self, name: str) -> Any:
            raise self.unknown(name)

    path = tmp_path / "nodepool.yaml"
    path.write_text("providers: [{name: a, driver: openstack}]")
    with pytest.raises(ConfigError):
        migrate(path, drivers=Lacking(), environ={})


# -- the command ----------------------------------------------------------------------------------------------------


def test_command_writes_the_file_and_lists_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("labels: [{name: a}]\nodd: 1\n")
    assert main(["config", "migrate", str(old), "-o", str(new)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert (
        f"{old}:2:1: unknown key 'odd'; correct the key if it is misspelt; Nodepool ignores it too (left out)"
        in said.err
    )
    assert main(["config", "migrate", str(old)]) == 0
    assert capsys.readouterr().out == new.read_text()


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("labels: [{name: 1}]\n")
    assert main(["config", "migrate", str(old), "-o", str(new)]) == USAGE
    assert f"{old}:1:17: name: text is expected" in capsys.readouterr().err
    assert not new.exists()


# -- any form of the file -------------------------------------------------------------------------------------------

GOOD: Any = {
    "labels": [{"name": "small", "min-ready": 1}, {"name": "big"}],
    "tenant-resource-limits": [],
    "webapp": {"port": 8005, "listen_address": "127.0.0.1"},
    "providers": [
        {
            "name": "cloud", "driver": "fake", "cloud-images": [{"name": "image", "username": "me"}],
            "limits": {"max-servers": 3},
            "pools": [
                {"name": "main", "networks": ["a", "b"], "labels": [
                    {"name": "small", "cloud-image": "image", "min-ram": 1},
                    {"name": "big", "cloud-image": "image", "min-ram": 2},
                ]},
            ],
        },
        {"name": "lab", "driver": "static", "pools": [{"name": "rack", "nodes": [{"name": "h", "labels": "small"}]}]},
    ],
}  # fmt: skip
JUNK = st.sampled_from([1, None, "text", "two\nlines\n", [1, 2], {"a": 1, "b": [1]}, [{"a": 1}, {"b": 2}], {}, []])


def mappings(value: Any) -> list[dict[str, Any]]:
    """Return the mappings that a checker descends into."""
    if isinstance(value, list):
        return [found for item in value for found in mappings(item)]
    inner = [found for item in value.values() for found in mappings(item)] if isinstance(value, dict) else []
    return [value, *inner] if isinstance(value, dict) else inner


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5), JUNK), max_size=6),
    st.lists(st.integers(0, 2), max_size=2),
    st.sampled_from([(2, 2, 0), (2, 4, 2), (4, 6, 4)]),
    st.sampled_from([False, None, True]),
    st.integers(),
)
def test_junk_goes_and_nothing_else(
    junk: list[tuple[int, int, Any]], foreign: list[int], indent: tuple[int, int, int], flow: bool | None, seed: int
) -> None:
    data = copy.deepcopy(GOOD)
    places = mappings(data)
    for number, (where, at, value) in enumerate(junk):
        target = places[where % len(places)]
        items = list(target.items())
        items.insert(at % (len(items) + 1), (f"junk{number}", value))
        target.clear()
        target.update(items)
    for at in foreign:
        data["providers"].insert(at, {"name": f"far{at}{len(data['providers'])}", "driver": "aws", "x": {"z": [1]}})
    yaml = YAML(typ="rt" if random.Random(seed).random() < 0.5 else "safe", pure=True)
    yaml.default_flow_style = flow
    yaml.indent(mapping=indent[0], sequence=indent[1], offset=indent[2])
    written = io.StringIO()
    yaml.dump(data, written)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = migrated(folder, written.getvalue())
        assert len(made.left_out) == len(junk) + len(foreign)
        plain = io.StringIO()
        YAML(typ="safe", pure=True).dump(GOOD, plain)
        assert loaded(folder, made.text) == loaded(folder, plain.getvalue())
        again = migrated(folder, made.text)
    assert (again.text, again.left_out, again.changed) == (made.text, (), ())
