"""Faults that the crash matrix (tests/crash) has found, each as a scenario."""

from __future__ import annotations

import asyncio

import pytest

from nodelaunch.engine.launch.slots import Slots

pytestmark = pytest.mark.looptime


async def test_request_that_is_broken_off_while_its_nodes_are_given_up_makes_none_of_them() -> None:
    """Otherwise the remaining nodes would be made all the same, and stay locked, or fail without being noticed."""
    slots = Slots.__new__(Slots)
    slots.held = {}
    first, second = (asyncio.ensure_future(asyncio.sleep(made_in_s)) for made_in_s in (5.0, 60.0))
    slots._early = {0: first, 1: second}
    giving_up = asyncio.ensure_future(slots.give_up_early())
    await asyncio.sleep(1.0)
    giving_up.cancel()
    await asyncio.wait([giving_up])
    assert first.done()
    slots.break_off()
    await asyncio.wait([second])
    assert second.cancelled()
