"""Choice of the next slot, and of the time to delete a backing node."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from nodelaunch.drivers.metastatic.config import MetastaticLabel
from nodelaunch.drivers.metastatic.slots import Fail, Fate, Forget, Keep, Release, fate_of, free_slots
from nodelaunch.protocol.cluster import Backing
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Lease
from support.builders import a_node

NOW = 1000.0


def a_label(**keys: Any) -> MetastaticLabel:
    content = {"name": "slot", "backing-label": "backing", "max-parallel-jobs": 2, **keys}
    return MetastaticLabel.model_validate({key.replace("_", "-"): value for key, value in content.items()})


def a_backing(number: int = 1, *taken: int, there: bool = True, **lease: Any) -> Backing:
    node = a_node(number)
    known: dict[str, Any] = {"label": "slot", "slots": 2, "launched_at": NOW, "used_at": NOW, **lease}
    users = {slot: NodeId(f"{slot:010d}") for slot in taken}
    return Backing(Lease(node_id=node.id, **known), node if there else None, users)


@pytest.mark.parametrize(
    ("backings", "found"),
    [
        ([a_backing(1), a_backing(2)], [(1, 0), (1, 1), (2, 0), (2, 1)]),
        ([a_backing(1, 0), a_backing(2)], [(1, 1), (2, 0), (2, 1)]),
        ([a_backing(1, 0, 1), a_backing(2, 1)], [(2, 0)]),
        ([a_backing(1, is_failed=True), a_backing(2, 1)], [(2, 0)]),
        ([a_backing(1, label="other"), a_backing(2, 1)], [(2, 0)]),
        ([a_backing(1, there=False), a_backing(2, 1)], [(2, 0)]),
        ([a_backing(1, launched_at=NOW - 100), a_backing(2, 1)], [(2, 0)]),
        ([a_backing(1, slots=3)], [(1, 0), (1, 1), (1, 2)]),
        ([], []),
    ],
)
def test_old_nodes_are_filled_first(backings: list[Backing], found: list[tuple[int, int]]) -> None:
    slots = free_slots(backings, a_label(max_age=100), NOW)
    assert [(int(backing.id), number) for backing, number in slots] == found


def test_refused_slots_are_left_out() -> None:
    (slot,) = free_slots([a_backing(1)], a_label(), NOW, but={("0000000001", 0)})
    assert slot[1] == 1


@pytest.mark.parametrize(
    ("backing", "label", "fate"),
    [
        (a_backing(there=False), a_label(), Forget()),
        (a_backing(1, 0, there=False), None, Forget()),
        (a_backing(), None, Release()),
        (a_backing(1, 0), None, Keep()),
        (a_backing(is_failed=True), a_label(min_retention_time=500), Release()),
        (a_backing(1, 0, is_failed=True), a_label(), Keep()),
        (a_backing(), a_label(), Keep(NOW + 60)),
        (a_backing(used_at=NOW - 59), a_label(), Keep(NOW + 1)),
        (a_backing(used_at=NOW - 60), a_label(), Release()),
        (a_backing(1, 0, used_at=NOW - 60), a_label(), Keep(inf)),
        (a_backing(used_at=NOW - 60), a_label(min_retention_time=500), Keep(NOW + 500)),
        (a_backing(used_at=NOW - 60, launched_at=NOW - 500), a_label(min_retention_time=500), Release()),
        (a_backing(1, 0), a_label(max_age=100), Keep(NOW + 100)),
        (a_backing(), a_label(max_age=10), Keep(NOW + 10)),
        (a_backing(1, 0, launched_at=NOW - 100), a_label(max_age=100), Fail()),
        (a_backing(launched_at=NOW - 100), a_label(max_age=100, grace_time=500), Fail()),
        (a_backing(used_at=NOW), a_label(grace_time=0), Release()),
    ],
)
def test_fates(backing: Backing, label: MetastaticLabel | None, fate: Fate) -> None:
    assert fate_of(backing, label, NOW) == fate
