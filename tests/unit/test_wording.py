"""Numbers and names as people read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodelaunch.cli.explain import _is_known, _lines
from nodelaunch.cli.status import in_words
from nodelaunch.cli.tables import counted
from nodelaunch.cli.top import frame
from nodelaunch.protocol.verdicts import NoRoom
from nodelaunch.status import LauncherStatus, PoolStatus, Status
from support.process import run

RAM = 1_048_576.0
CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
labels: [{{name: small}}]
providers:
  - {{name: cloud, driver: test, pools: [{{name: main, max-servers: 1, labels: [small]}}]}}
"""
UNKNOWN: dict[str, Any] = {
    "pool_id": "p", "provider": "cloud", "pool": "main", "status": "not known", "reasons": [], "nodes": [],
    "history": [],
}  # fmt: skip


def test_amounts_are_written_out() -> None:
    pool = PoolStatus("cloud", "main", limits={"ram": RAM}, used={"ram": RAM - 1}, free={"ram": 0.5})
    text = "\n".join(in_words(Status(at=0.0, pools=(pool,))))
    for part in ("ram 1048576", "ram 1048575", "ram 0.5"):
        assert part in text
    assert str(NoRoom("ram", RAM, RAM - 1)).startswith("needs 1048576 ram; 1048575 available")


def test_bars_have_whole_numbers() -> None:
    pool = PoolStatus("cloud", "main", limits={"instances": RAM}, used={"instances": RAM - 1})
    assert "1048575/1048576" in frame(Status(at=0.0, pools=(pool,)), [], 160, 40).plain


@pytest.mark.parametrize(("count", "text"), [(0, "0 pools"), (1, "1 pool"), (2, "2 pools")])
def test_one_thing_is_not_several(count: int, text: str) -> None:
    assert counted(count, "pool") == text


def test_config_check_counts_in_english(tmp_path: Path) -> None:
    (tmp_path / "n.yaml").write_text(CONFIG.format(folder=tmp_path))
    assert run("config", "check", str(tmp_path / "n.yaml")).stdout.endswith("good; 1 label, 1 provider, 1 pool\n")


def test_launchers_of_one_host_are_told_apart() -> None:
    launchers = tuple(LauncherStatus(letter * 32, "vm", "1", "running", 0.0, pid=pid) for letter, pid in ("a7", "b8"))
    lines = in_words(Status(at=0.0, launchers=launchers))
    assert lines[1].startswith("vm        " + "a" * 32 + "  7 ")


def test_unknown_request_is_said_to_be_unknown_and_nothing_else() -> None:
    found = {"id": "200-0000000009", "request": None, "asked": None, "nodes": {}, "pools": [UNKNOWN]}
    assert _lines(found, []) == [
        "request 200-0000000009",
        "  there is no such request, and no launcher remembers it: it never existed, or it ended long ago",
    ]


@pytest.mark.parametrize(
    ("more", "is_known"),
    [
        ({}, False),
        ({"node": {"id": "0000000001"}}, True),
        ({"request": {}}, True),
        ({"pools": [{**UNKNOWN, "status": "served"}]}, True),
    ],
)
def test_what_is_told_of_a_node_is_known_though_its_request_has_gone(more: dict[str, Any], is_known: bool) -> None:
    assert _is_known({"request": None, "pools": [UNKNOWN], **more}) is is_known


def test_pools_that_remember_an_ended_request_are_named_alone() -> None:
    knows = {**UNKNOWN, "pool": "other", "status": "fulfilled", "history": [{"at": 0, "what": "x", "reasons": []}]}
    found = {"id": "200-0000000009", "request": None, "asked": None, "nodes": {}, "pools": [UNKNOWN, knows]}
    lines = _lines(found, [])
    assert [line for line in lines if line.startswith("cloud/")] == ["cloud/other: fulfilled"]
