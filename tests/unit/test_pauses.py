"""Pauses as records: of what, by whom, in words."""

from __future__ import annotations

import json

import pytest

from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol import paths
from nodelaunch.protocol.pauses import Pause, Target, TargetKind
from support.builders import a_pause

CLOUD, MAIN, HERE = Target.provider("cloud"), Target.pool("cloud", "main"), Target.launcher("cloud")


@pytest.mark.parametrize("target", [CLOUD, MAIN, HERE, Target.provider("a:b.c d%2F")])
def test_each_target_has_a_path_of_its_own(target: Target) -> None:
    path = paths.pause(target.kind.value, target.name)
    assert paths.is_child(path, paths.PAUSES)
    kind, name = paths.pause_at(path) or ("", "")
    assert Target(TargetKind(kind), name) == target


@pytest.mark.parametrize("name", ["cloud", "provider", "provider:a/b"])
def test_other_names_are_no_pauses(name: str) -> None:
    assert paths.pause_at(f"{paths.PAUSES}/{name}") is None


def test_record_keeps_what_another_version_wrote() -> None:
    data = b'{"drains": true, "by": "ann", "at": 5, "reason": null, "until": 9}'
    pause = Pause.from_bytes("/x", data, target=MAIN)
    assert (pause.drains, pause.by, pause.at, pause.reason) == (True, "ann", 5.0, None)
    assert json.loads(pause.to_bytes()) == json.loads(data)
    with pytest.raises(RecordInvalidError):
        Pause.from_bytes("/x", b'{"drains": 1}', target=MAIN)


def test_pause_in_words() -> None:
    assert str(a_pause()) == "provider cloud is paused since 2023-11-14 22:13 UTC by ann@desk"
    told = a_pause(target=MAIN, drains=True, by=None, reason="disks", at=1e30)
    assert str(told) == "pool cloud/main is draining since an unknown time: disks"
    assert told.to_json() == {
        "kind": "pool", "name": "cloud/main", "state": "draining", "by": None, "at": 1e30, "reason": "disks",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "is_about_it"),
    [(CLOUD, CLOUD, True), (CLOUD, MAIN, True), (MAIN, CLOUD, True), (HERE, CLOUD, False), (HERE, HERE, True),
     (MAIN, Target.pool("cloud", "other"), False), (CLOUD, Target.pool("other", "main"), False)],
)  # fmt: skip
def test_pause_concerns_what_is_part_of_it(one: Target, other: Target, *, is_about_it: bool) -> None:
    assert one.concerns(other) is is_about_it
