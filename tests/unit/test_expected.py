"""Pools that start together wait for each other, but not for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.fleet.expected import REGISTER_GRACE_S, ExpectedPools
from nodelaunch.protocol.store import SessionState

pytestmark = pytest.mark.looptime
ONE, TWO = ("cloud", "one"), ("cloud", "two")
CLOUD = SimpleNamespace(name="cloud", pools=[SimpleNamespace(name="one"), SimpleNamespace(name="two")])


@dataclass
class Launcher:
    pools: dict[PoolKey, SimpleNamespace] = field(default_factory=dict)
    woken: int = 0

    def __post_init__(self) -> None:
        self.expected = ExpectedPools(self.pools, self.wake)
        self.expected.expect([CLOUD])
        self.expected.begin_grace()

    def wake(self) -> None:
        self.woken += 1

    def run(self, key: PoolKey, *, is_registered: bool = True) -> None:
        self.pools[key] = SimpleNamespace(is_registered=is_registered)


async def test_nobody_declines_until_all_pools_are_registered() -> None:
    launcher = Launcher()
    launcher.run(ONE)
    assert not launcher.expected.may_decline()
    launcher.run(TWO, is_registered=False)
    assert not launcher.expected.may_decline()
    launcher.run(TWO)
    assert launcher.expected.may_decline()


async def test_grace_ends_and_wakes_whoever_waits() -> None:
    launcher = Launcher()
    await asyncio.sleep(REGISTER_GRACE_S - 1)
    assert (launcher.expected.may_decline(), launcher.woken) == (False, 0)
    await asyncio.sleep(2)
    assert (launcher.expected.may_decline(), launcher.woken) == (True, 1)


async def test_lost_session_begins_a_grace_period() -> None:
    launcher = Launcher()
    await asyncio.sleep(REGISTER_GRACE_S + 1)
    launcher.expected.on_session(SessionState.SUSPENDED)
    assert launcher.expected.may_decline()
    launcher.expected.on_session(SessionState.LOST)
    assert not launcher.expected.may_decline()


async def test_pool_that_is_not_configured_any_more_is_not_waited_for() -> None:
    launcher = Launcher()
    launcher.run(ONE)
    launcher.expected.expect([SimpleNamespace(name="cloud", pools=[SimpleNamespace(name="one")])])
    assert launcher.expected.may_decline()


async def test_shortcomings_name_each_pool() -> None:
    launcher = Launcher()
    launcher.run(TWO, is_registered=False)
    assert launcher.expected.shortcomings() == ["pool cloud/one not started", "pool cloud/two not registered"]
    launcher.run(ONE)
    launcher.run(TWO)
    assert launcher.expected.shortcomings() == []
