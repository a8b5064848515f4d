"""Reading configuration files: what loads, what is complained of, and that each complaint has its place."""

from __future__ import annotations

import copy
import gc
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.nodes import Node

from nodelaunch.config.file import check_files, load_config, load_store_config, position_of
from nodelaunch.config.models import (
    Config,
    DiskImageConfig,
    EmbeddedStoreConfig,
    LabelConfig,
    Model,
    TenantLimits,
    WebappConfig,
    ZooKeeperServer,
    ZooKeeperTls,
)
from nodelaunch.config.positions import MAX_DEPTH
from nodelaunch.connecting import check_files as check_named_files
from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.cloudoptions import CloudDiskImage, CloudImage, CloudLabel, CloudPool
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.static.config import StaticProvider
from nodelaunch.errors import ConfigError, ConfigProblem

ROOT = Path(__file__).parents[2]
BAD = sorted((Path(__file__).parent / "bad_configs").glob("*.yaml"))
MANUAL = ROOT / "docs" / "configuration.md"
DRIVERS = DriverRegistry()
NOT_OURS = ", only variables whose names begin with NODEPOOL_ are:"

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a file, as text or bytes; its path."""

    def writer(content: str | bytes, name: str = "nodelaunch.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return writer


def load(path: Path, *, secure: Path | None = None, **environ: str) -> Config:
    config, warnings = load_config(path, secure=secure, drivers=DRIVERS, environ=environ)
    assert warnings == ()
    return config


def warnings_of(path: Path, **environ: str) -> list[str]:
    _, warnings = load_config(path, drivers=DRIVERS, environ=environ)
    return [short(warning) for warning in warnings]


def problems_of(path: Path, *, secure: Path | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, secure=secure, drivers=DRIVERS, environ=environ)
    assert caught.value.__context__ is None  # a traceback must not show what pydantic was given
    return [short(problem) for problem in caught.value.problems]


def outcome(path: Path) -> tuple[ConfigProblem, ...]:
    """The problems of *path*, or the warnings if it has none."""
    try:
        return load_config(path, drivers=DRIVERS, environ={})[1]
    except ConfigError as error:
        return error.problems


def short(problem: ConfigProblem) -> str:
    """Like its text, without the folder."""
    return f"{Path(problem.file).name}:{problem.line}:{problem.column}: {problem.message}"


# -- wrong configurations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_wrong_configuration_is_explained_where_it_is_wrong(path: Path) -> None:
    environ = {n: v.replace("\\n", "\n") for n, v in re.findall(r"^# env: (\w+)=(.*)$", path.read_text(), re.MULTILINE)}
    expected = [f"{path.name}:{line}" for line in path.with_suffix(".expected").read_text().splitlines()]
    found = problems_of(path, **environ)
    for value in environ.values():
        assert value not in "\n".join(found)
    assert len(found) == len(expected), "\n".join(found)
    for text, beginning in zip(found, expected, strict=True):
        assert text.startswith(beginning)


def test_there_are_many_wrong_configurations() -> None:
    assert len(BAD) >= 30
    assert {path.stem for path in BAD} == {path.stem for path in BAD[0].parent.glob("*.expected")}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1:1: the file is empty"),
        (b"# only this\n\n", "1:1: the file is empty"),
        (b"labels:\n  - name: caf\xe9\n", "2:14: not UTF-8 text"),
        ("labels: []".encode("utf-16"), "1:1: not UTF-8 text"),
        (b"labels: []\nwebapp: \x00\n", "2:9: broken YAML: the character U+0000 is not allowed"),
        (b"a: " + b"[" * 5000, "0:0: nested deeper than"),
        (b"webapp: " + b"{a: " * 60 + b"1" + b"}" * 60 + b"\n", f"1:{8 + 4 * MAX_DEPTH + 1}: nested deeper than"),
        (b"webapp:\r\n  port: x\r\n", "2:9: port: a whole number"),
        (b"\xef\xbb\xbfwebapp: {port: x}\n", "1:16: port: a whole number"),
        (b'images-dir: "\\UFFFFFFFF"\n', "0:0: broken YAML: "),
        (b"max-hold-age: 1999-99-99\n", "1:15: looks like a YAML timestamp"),
        (b"max-hold-age: " + b"9" * 5000 + b"\n", "1:15: looks like a YAML int"),
    ],
)
def test_unusable_file(write: Writer, content: bytes, expected: str) -> None:
    assert any(text.startswith(f"nodelaunch.yaml:{expected}") for text in problems_of(write(content)))


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.yaml") == ["none.yaml:0:0: can't be read: No such file or directory"]
    assert problems_of(tmp_path) == [f"{tmp_path.name}:0:0: can't be read: Is a directory"]
    assert problems_of(Path("a\0b"))[0].endswith("can't be read: the path has a null byte in it")


def test_aliases_of_aliases_end(write: Writer) -> None:
    lines = ["labels: []", "webapp: &a0 {x: 1}"]
    lines += [f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases of aliases" in problems_of(write("\n".join(lines)))[0]


ANNOTATED: Any = YAML(typ="safe", pure=True).load(ROOT / "examples" / "annotated.yaml")


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in *value*."""
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in inner:
        yield from _places(item, (*place, step))


@settings(max_examples=150, deadline=None)
@given(
    place=st.sampled_from(list(_places(ANNOTATED))),
    value=st.sampled_from([None, True, -1, 1.5, "", "x", "5", [], {}, [None], [[]], {"a": 1}, [{"name": "x"}]]),
)
def test_any_value_anywhere_is_taken_or_told(
    place: tuple[Any, ...], value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The loader accepts any value in any place, or reports it in single lines, and never fails otherwise."""
    data = copy.deepcopy(ANNOTATED)
    around = data
    for step in place[:-1]:
        around = around[step]
    around[place[-1]] = value
    path = tmp_path_factory.mktemp("changed") / "nodelaunch.yaml"
    path.write_text(json.dumps(data, indent=1))
    assert all(problem.line >= 1 and "\n" not in problem.message for problem in outcome(path))


# -- good configurations --------------------------------------------------------------------------------------------

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
BLOCKS = re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(), re.DOTALL)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_loads_and_twice_the_same(path: Path) -> None:
    config = load(path)
    assert config == load(path)
    assert config.providers
    assert all(pool.label_names for provider in config.providers for pool in provider.pools)


def test_examples_are_there() -> None:
    assert {"minimal", "annotated"} <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("block", BLOCKS)
def test_documented_configuration_loads(write: Writer, block: str) -> None:
    environ = dict.fromkeys(re.findall(r"%\((\w+)\)", block), "1234")
    assert load(write(block), **environ) == load(write(block), **environ)


def _documented_keys() -> set[str]:
    """The keys in the first column of the manual's tables."""
    rows = re.findall(r"^\| (`.*?`) \|", MANUAL.read_text(), re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize(
    "model",
    [
        Config, ZooKeeperServer, ZooKeeperTls, EmbeddedStoreConfig, WebappConfig, LabelConfig, TenantLimits,
        DiskImageConfig, FakeProvider, CloudPool, CloudLabel, CloudDiskImage, CloudImage,
    ],
)  # fmt: skip
def test_every_key_is_documented(model: type[Model]) -> None:
    assert {info.alias or name for name, info in model.model_fields.items()} <= _documented_keys()


def test_yaml_is_read_as_nodepool_reads_it(write: Writer) -> None:
    config = load(write("diskimages: [{name: a, pause: yes, delete-after-upload: off, rebuild-age: 1_000}]"))
    assert (config.diskimages[0].pause, config.diskimages[0].delete_after_upload) == (True, False)
    assert config.diskimages[0].rebuild_age == 1000


def test_anchors_aliases_and_merges(write: Writer) -> None:
    config = load(write("""
labels: [{name: small}]
providers:
  - &first
    name: one
    driver: test
    priority: 1
    pools: &pools
      - {name: main, labels: [small]}
  - pools: []
    <<: [{name: two, priority: 2}, {name: three, max-concurrency: 5, priority: 3}, *first]
"""))  # fmt: skip
    one, two = config.providers
    assert two.name == "two"
    assert (two.priority, two.max_concurrency, two.driver, two.pools) == (2, 5, "test", ())
    assert one.pools[0].label_names == ("small",)


def test_of_several_merges_the_last_wins(write: Writer) -> None:
    config = load(write("webapp:\n  <<: {port: 1, listen_address: a}\n  <<: {port: 2}\n"))
    assert (config.webapp.port, config.webapp.listen_address) == (2, "a")


def test_one_anchor_may_be_given_twice(write: Writer) -> None:
    config = load(write("max-hold-age: &a 1\nbuild-log-retention: &a 2\nlabels: [{name: x, max-ready-age: *a}]"))
    assert config.labels[0].max_ready_age == 2


def test_what_is_merged_is_complained_of_where_it_is_written(write: Writer) -> None:
    path = write("""labels:
  - name: small
    min-ready: -1
    <<: {max-ready-age: x, min-ready: y, name: other}
  - <<: [{name: large}, {name: 5, max-ready-age: -1}]
""")
    assert problems_of(path) == [
        "nodelaunch.yaml:4:25: max-ready-age: a whole number is expected, found text 'x'",
        "nodelaunch.yaml:5:50: max-ready-age: must be at least 0, found -1",
    ]


# -- the environment ------------------------------------------------------------------------------------------------


def test_variables_are_put_in_as_text(write: Writer) -> None:
    path = write("webapp: {port: %(NODEPOOL_PORT), listen_address: '%(NODEPOOL_A).%(NODEPOOL_B)'}\n%(NODEPOOL_MORE)\n")
    config = load(path, NODEPOOL_PORT="80", NODEPOOL_A="a", NODEPOOL_B="b", NODEPOOL_MORE="labels:\n- name: x\n")
    assert (config.webapp.port, config.webapp.listen_address) == (80, "a.b")
    assert config.label("x") is not None


def test_variables_of_other_names_are_left_alone(write: Writer) -> None:
    path = write('webapp: {token-file: "%(HOME) %(nodepool_x) %NODEPOOL_X"}')
    config, (warning,) = load_config(path, drivers=DRIVERS, environ={"HOME": "x", "NODEPOOL_X": "y"})
    assert config.webapp.token_file == "%(HOME) %(nodepool_x) %NODEPOOL_X"
    assert warning.message.startswith("%(HOME) is not replaced")


def test_text_may_follow_a_variable(write: Writer) -> None:
    config = load(write('webapp: {listen_address: "%(NODEPOOL_X)server"}'), NODEPOOL_X="a-")
    assert config.webapp.listen_address == "a-server"


def test_every_unset_variable_is_named(write: Writer) -> None:
    path = write("""webapp:
  port: %(NODEPOOL_A)
  listen_address: "%(NODEPOOL_B) %(NODEPOOL_A)"
labels: [{name: a, min-ready: x}]
""")
    assert problems_of(path) == [
        "nodelaunch.yaml:2:9: the environment variable NODEPOOL_A is not set",
        "nodelaunch.yaml:3:20: the environment variable NODEPOOL_B is not set",
        "nodelaunch.yaml:3:34: the environment variable NODEPOOL_A is not set",
        "nodelaunch.yaml:4:31: min-ready: a whole number is expected, found text 'x'",
    ]


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.text("ab \n'\"", max_size=12), min_size=1, max_size=4))
def test_variables_move_no_position(values: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A complaint names the place in the file as written, even after variables with any values."""
    names = [f"NODEPOOL_V{number}" for number in range(len(values))]
    block = "".join(f"  %({name})\n" for name in names)
    text = f"providers: []\nimages-dir: |2\n{block}webapp: {{listen_address: x, port: wrong}}\n"
    path = tmp_path_factory.mktemp("moved") / "nodelaunch.yaml"
    path.write_text(text)
    environ = {name: value.replace("\n", "\n  ") for name, value in zip(names, values, strict=True)}
    line = 3 + len(names)
    expected = f"nodelaunch.yaml:{line}:35: port: a whole number is expected, found text 'wrong'"
    assert problems_of(path, **environ) == [expected]


# -- the secure file ------------------------------------------------------------------------------------------------

MAIN = """
zookeeper-servers: [{host: other}]
zookeeper-tls: {cert: cert, key: key, ca: ca, check-host-name: true}
diskimages:
  - name: debian
    env-vars: {DEBUG: "1", TOKEN: none}
  - {name: fedora, parent: debian}
"""


def test_secure_file_sets_connection_and_image_variables(write: Writer) -> None:
    secure = write("""
zookeeper-servers: [{host: zk1, port: 2182, chroot: /zuul}]
zookeeper-tls: {cert: c, key: k, ca: a, check-host-name: false}
zookeeper-auth: {user: nodelaunch, password: hunter2}
diskimages: [{name: debian, env-vars: {TOKEN: "%(NODEPOOL_T)"}}, {name: fedora, env-vars: {MORE: "2"}}]
""", "secure.yaml")  # fmt: skip
    config = load(write(MAIN), secure=secure, NODEPOOL_T="hunter2")
    assert [(server.host, server.port) for server in config.zookeeper_servers] == [("zk1", 2182)]
    assert config.chroot == "/zuul"
    assert config.zookeeper_tls is not None
    assert config.zookeeper_tls.key == "k"
    assert config.zookeeper_auth is not None
    assert config.zookeeper_auth.password is not None
    assert config.zookeeper_auth.password.get_secret_value() == "hunter2"
    debian, fedora = ({n: v.get_secret_value() for n, v in image.env_vars.items()} for image in config.diskimages)
    assert debian == {"DEBUG": "1", "TOKEN": "hunter2"}
    assert fedora == {"DEBUG": "1", "TOKEN": "hunter2", "MORE": "2"}
    assert "hunter2" not in repr(config) + str(config) + config.model_dump_json()


def test_empty_secure_file(write: Writer) -> None:
    assert load(write(MAIN), secure=write("# nothing\n", "secure.yaml")) == load(write(MAIN))


def test_wrong_secure_file_is_explained_without_its_values(write: Writer) -> None:
    secure = write("""
zookeeper-servers: [{host: hunter2, port: hunter2, password: hunter2}]
zookeeper-tls: {cert: hunter2, key: 5}
labels: [{name: hunter2}]
diskimages:
  - name: hunter2
    env-vars: {A: hunter2}
  - name: debian
    env-vars: {A: 22222}
  - name: debian
    elements: [hunter2]
  - name: fedora
    env-vars: [hunter2]
""", "secure.yaml")  # fmt: skip
    found = problems_of(write(MAIN), secure=secure)
    assert found == [
        "secure.yaml:2:43: port: a whole number is expected, found something else",
        "secure.yaml:2:52: unknown key; allowed: chroot, host, port",
        "secure.yaml:3:16: the key 'ca' is missing",
        "secure.yaml:3:37: key: text is expected, found something else",
        (
            "secure.yaml:4:1: this key can't be set in a secure file;"
            " allowed: zookeeper-servers, zookeeper-tls, zookeeper-auth, diskimages"
        ),
        "secure.yaml:6:11: the main file defines no diskimage of this name",
        "secure.yaml:9:19: A: text is expected, found something else",
        "secure.yaml:10:5: a diskimage in a secure file may have only name and env-vars",
        "secure.yaml:13:15: env-vars: a mapping of keys and values is expected",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("zookeeper-tls: *hunter2\n", "1:16: broken YAML: there is no anchor &... above this alias *..."),
        ("a: !hunter2 x\n", "1:1: this key can't be set in a secure file"),
        ("- hunter2\n", "1:1: keys such as"),
        ("diskimages: hunter2\n", "1:13: diskimages: a list is expected"),
        ("hunter2: 1\nhunter2: 2\n", "2:1: this key can't be set in a secure file"),
    ],
)
def test_broken_secure_file_is_explained_without_its_values(write: Writer, content: str, expected: str) -> None:
    found = problems_of(write(MAIN), secure=write(content, "secure.yaml"))
    assert found[0].startswith(f"secure.yaml:{expected}")
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "zookeeper-servers: [{host: localhost, port: 1}]\nzookeeper-auth: {user: us, password: 48151623}",
        "zookeeper-servers: [{host: localhost, port: 1}]\nzookeeper-auth: {user: us, password: [48151623]}",
        "diskimages: [{name: debian, env-vars: {TOKEN: 48151623}}]",
    ],
)
def test_secret_of_the_wrong_kind_is_not_shown(write: Writer, text: str) -> None:
    (problem,) = problems_of(write(text))
    assert problem.endswith("text is expected, found something else")


def test_variables_are_not_shown_in_a_secure_file_either(write: Writer) -> None:
    secure = write('diskimages: [{name: debian, env-vars: {"%(NODEPOOL_T)": 5}}]', "secure.yaml")
    found = problems_of(write(MAIN), secure=secure, NODEPOOL_T="hunter2")
    assert found == ["secure.yaml:1:57: text is expected, found something else"]


def test_problems_of_both_files_are_told_at_once(write: Writer) -> None:
    found = problems_of(write("labels: [{name: 5}]"), secure=write("x: 1", "secure.yaml"))
    assert [text.split(":")[0] for text in found] == ["nodelaunch.yaml", "secure.yaml"]


# -- files the configuration names ----------------------------------------------------------------------------------


def test_unreadable_tls_files_are_told_at_their_keys(write: Writer, tmp_path: Path) -> None:
    cert = write("x", "cert.pem")
    tls = f"zookeeper-tls:\n  cert: {cert}\n  key: {tmp_path}/none\n  ca: {tmp_path}\n  check-host-name: no\n"
    path = write("zookeeper-servers: [{host: a}]\n" + tls)
    load(path)  # loading opens none of them
    assert [short(problem) for problem in check_files(path, environ={})] == [
        f"nodelaunch.yaml:4:8: key: {tmp_path}/none can't be read: No such file or directory",
        f"nodelaunch.yaml:5:7: ca: {tmp_path} can't be read: Is a directory",
    ]
    path, secure = write("zookeeper-servers: [{host: a}]\n"), write(tls, "secure.yaml")
    assert [short(problem) for problem in check_files(path, secure=secure, environ={})] == [
        "secure.yaml:3:8: key: the file can't be read: No such file or directory",
        "secure.yaml:4:7: ca: the file can't be read: Is a directory",
    ]


def test_unreadable_password_file_is_told_at_its_key(write: Writer, tmp_path: Path) -> None:
    path = write(
        f"zookeeper-servers: [{{host: localhost, port: 1}}]\n"
        f"zookeeper-auth: {{user: a, password-file: {tmp_path}/none}}"
    )
    assert [short(problem) for problem in check_files(path, environ={})] == [
        f"nodelaunch.yaml:2:42: password-file: {tmp_path}/none can't be read: No such file or directory"
    ]


def test_unreadable_token_file_is_told_to_a_launcher_and_not_to_its_clients(write: Writer, tmp_path: Path) -> None:
    path = write(f"webapp: {{token-file: {tmp_path}/none}}\nembedded-store: {{path: {tmp_path}/store}}")
    expected = f"nodelaunch.yaml:1:22: token-file: {tmp_path}/none can't be read: No such file or directory"
    assert [short(problem) for problem in check_named_files(load(path), path)] == [expected]
    assert check_named_files(load_store_config(path, environ={}), path) == []


def test_whoever_only_needs_the_store_starts_no_driver(write: Writer, tmp_path: Path) -> None:
    program = tmp_path / "nodelaunch-driver-x"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    path = write(f"labels: []\nproviders: [{{name: x, driver: {program}}}]\nembedded-store: {{path: {tmp_path}/store}}")
    load_store_config(path, environ={})
    assert not (tmp_path / "started").exists()
    assert problems_of(path)
    assert (tmp_path / "started").exists()


def test_check_files_without_tls(write: Writer) -> None:
    assert check_files(write("labels: []"), environ={}) == ()


def test_position_of_a_key(write: Writer) -> None:
    path = str(write("labels: []\nwebapp:\n  port: 1\n"))
    assert position_of(path, ("webapp", "port"), environ={}) == (3, 9)
    assert position_of(path, ("webapp", "host"), environ={}) == (0, 0)


# -- warnings -------------------------------------------------------------------------------------------------------


def test_old_and_doubtful_spellings_are_warned_of(write: Writer) -> None:
    path = write("""
webapp: {listen-address: 127.0.0.1}
diskimages:
labels:
  - name: bare
    min-ready: 1
  - name: unused
    min-ready: 2
providers:
  - name: fake-cloud
    pools: []
  - name: lab
    driver: static
    pools:
      - name: rack
        nodes:
          - {name: host1, ssh-port: 2222, labels: bare}
tenant-resource-limits:
  - {tenant-name: acme, max-server: 5, L-1216C47A: 8}
zookeeper-servers:
  - host: zk1
""")
    assert warnings_of(path) == [
        "nodelaunch.yaml:2:10: listen-address is accepted, but the name of this key is listen_address",
        "nodelaunch.yaml:3:1: diskimages has no value; leave the key out, or write []",
        "nodelaunch.yaml:8:16: no pool offers this label, so no node can be kept ready",
        "nodelaunch.yaml:10:5: no driver is named, which means fake; write driver: fake",
        "nodelaunch.yaml:17:27: ssh-port is accepted, but the name of this key is connection-port",
        "nodelaunch.yaml:19:25: 'max-server' limits a resource of that name; did you mean 'max-servers'?",
        "nodelaunch.yaml:21:5: port 2281 usually accepts TLS only: set zookeeper-tls, or use the plain port (2181)",
    ]
    config, _ = load_config(path, drivers=DRIVERS, environ={})
    fake, static = config.providers
    assert isinstance(fake, FakeProvider)
    assert isinstance(static, StaticProvider)
    assert static.pools[0].nodes[0].connection_port == 2222
    assert config.webapp.listen_address == "127.0.0.1"
    assert config.tenant_resource_limits[0].limits()["L-1216C47A"] == 8


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ('"%(HOME)/store"', f"%(HOME) is not replaced{NOT_OURS} write %(NODEPOOL_HOME), and set it"),
        ("/srv/%(AT)s/store", f"%(AT)s is not replaced{NOT_OURS} write %(NODEPOOL_AT), and set it"),
        ("${NODEPOOL_HOME}/store", "${NODEPOOL_HOME} is not replaced; write %(NODEPOOL_HOME)"),
        ("$NODEPOOL_HOME/store", "$NODEPOOL_HOME is not replaced; write %(NODEPOOL_HOME)"),
    ],
)
def test_what_is_meant_for_a_variable_and_is_none_is_warned_of(write: Writer, value: str, hint: str) -> None:
    assert warnings_of(write(f"embedded-store:\n  path: {value}\n")) == [f"nodelaunch.yaml:2:9: {hint}"]


@pytest.mark.parametrize("value", ['"%(NODEPOOL_HOME)/x"', "$HOME/x", "|\n    %(HOME)s"])
def test_what_may_well_be_meant_as_it_is_is_not_warned_of(write: Writer, value: str) -> None:
    """Nor is what is in the value of a variable, or in a text of several lines."""
    path = write(f"embedded-store:\n  path: {value}\n")
    assert warnings_of(path, NODEPOOL_HOME="%(HOME)") == []


@pytest.mark.parametrize("address", ["localhost:8005", "http://localhost", "127.0.0.1/8", "[::1]", "my host", ":1:"])
def test_wrong_listen_address_says_what_to_write(write: Writer, address: str) -> None:
    (problem,) = problems_of(write(f"webapp:\n  listen_address: '{address}'\n"))
    assert problem.startswith("nodelaunch.yaml:2:19: listen_address: has to be an address or a name of this machine")
    assert problem.endswith("the port goes to the key 'port'")


@pytest.mark.parametrize("address", ["::1", "::", "fe80::1%eth0", "127.0.0.1", "0.0.0.0", "localhost", "ci.example"])
def test_good_listen_address_is_taken(write: Writer, address: str) -> None:
    assert load(write(f"webapp:\n  listen_address: '{address}'\n")).webapp.listen_address == address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_plain_connection_on_this_machine_is_not_warned_of(write: Writer, host: str) -> None:
    assert warnings_of(write(f"zookeeper-servers: [{{host: '{host}', port: 2181}}]")) == []


@pytest.mark.parametrize("host", ["zk1.example.org", "192.0.2.1", "2001:db8::1", "localhost.example.org"])
def test_plain_connection_to_another_machine_is_warned_of(write: Writer, host: str) -> None:
    path = write(f"zookeeper-servers: [{{port: 2181, host: '{host}'}}]")
    text = "without zookeeper-tls, an attacker in the network can read the data that is read and written, and change it"
    assert warnings_of(path) == [f"nodelaunch.yaml:1:40: {text}"]
    path = write(path.read_text() + "\nzookeeper-auth: {user: us, password: hunter2}\n")
    (warning,) = warnings_of(path)
    assert "can read the password of zookeeper-auth" in warning
    assert "hunter2" not in warning


def test_host_names_that_are_not_checked_are_warned_of_unless_somebody_chose_so(write: Writer) -> None:
    text = "zookeeper-servers: [{host: zk1}]\nzookeeper-tls: {cert: c, key: k, ca: a%s}\n"
    (warning,) = warnings_of(write(text % ""))
    assert warning.startswith("nodelaunch.yaml:2:1: any client with a certificate of this CA can pose as a server")
    assert warnings_of(write(text % ", check-host-name: false")) == []
    assert warnings_of(write(text % ", check-host-name: true")) == []


def test_a_wrong_value_behind_an_old_name_is_told_at_the_old_name(write: Writer) -> None:
    path = write("webapp:\n  listen-address: %(NODEPOOL_X)\n")
    assert problems_of(path, NODEPOOL_X="42") == [
        "nodelaunch.yaml:2:19: listen_address: text is expected, found something else"
    ]
    assert "NODEPOOL_X is not set" in problems_of(path)[0]


def test_unused_min_ready_is_no_matter_while_a_provider_is_unknown(write: Writer) -> None:
    path = write("labels: [{name: a, min-ready: 1}]\nproviders: [{name: x, driver: nosuch}]")
    assert len(problems_of(path)) == 1


def test_the_tree_of_the_yaml_is_freed_without_a_garbage_collection(write: Writer) -> None:
    """A large tree would stay in memory until the next collection, in addition to new allocations."""
    path = write("labels: [{name: a, min-ready: 1}]")
    gc.collect()
    gc.disable()
    try:
        load_config(path, drivers=DRIVERS, environ={})
        assert [each for each in gc.get_objects() if issubclass(type(each), Node)] == []
    finally:
        gc.enable()


def test_number_with_an_exponent_is_no_more_than_a_wrong_number(write: Writer) -> None:
    """ruamel.yaml also warns of it, in words for programmers: here a warning is an error."""
    text = """
embedded-store: {path: here.sqlite}
labels: [{name: small}]
providers:
  - name: lab
    driver: test
    pools:
      - name: main
        max-servers: 1e3
        labels: [small]
"""
    (problem,) = problems_of(write(text))
    assert "nodelaunch.yaml:9:22: " in problem
    assert "found 1000.0; write 1000" in problem
