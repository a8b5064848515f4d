"""A node is served while some pool of its name, wherever it runs, offers its label."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nodelaunch.decisions.triage import Absentee
from nodelaunch.engine.fleet.offers import OfferedLabels
from support.builders import a_node, a_peer

CONFIGURED = SimpleNamespace(name="cloud", pools=[SimpleNamespace(name="main", label_names=["small"])])


class Table:
    def __init__(self) -> None:
        self.draining: set[tuple[str, str]] = set()
        self.view = SimpleNamespace(peers=(), is_draining=lambda *key: key in self.draining)
        self.away: tuple[Absentee, ...] = ()
        self.offered = OfferedLabels((), self.view, SimpleNamespace(absent=lambda: self.away))


@pytest.fixture
def table() -> Table:
    return Table()


def test_label_is_offered_by_the_configuration_a_peer_or_an_absent_pool(table: Table) -> None:
    node = a_node(type=("small",))
    assert not table.offered.is_served(node)
    table.offered.providers = (CONFIGURED,)
    assert table.offered.is_served(node)
    table.offered.providers = ()
    assert not table.offered.is_served(node)
    table.view.peers = (a_peer("id", "small", provider="cloud", pool="main"),)
    assert table.offered.is_served(node)
    table.view.peers = ()
    assert not table.offered.is_served(node)
    table.away = (Absentee("cloud", "main", frozenset({"small"}), 0.0),)
    assert table.offered.is_served(node)


def test_offers_of_one_pool_add_up(table: Table) -> None:
    table.offered.providers = (CONFIGURED,)
    table.view.peers = (a_peer("id", "big", provider="cloud", pool="main"),)
    assert table.offered.is_served(a_node(type=("small",)))
    assert table.offered.is_served(a_node(type=("big", "huge")))
    assert not table.offered.is_served(a_node(type=("huge",)))
    assert not table.offered.is_served(a_node(type=("small",), pool="other"))


def test_drained_pool_serves_no_idle_node(table: Table) -> None:
    table.offered.providers = (CONFIGURED,)
    table.draining = {("cloud", "main")}
    assert not table.offered.is_served(a_node(type=("small",)))
    table.draining = {("cloud", "other")}
    assert table.offered.is_served(a_node(type=("small",)))
