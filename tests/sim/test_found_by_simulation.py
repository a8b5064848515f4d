"""What tests/simulation has found, each once more in a scenario of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.protocol import machine as m
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.records import Node, PoolRegistration
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.triage import Accept, triage
from nodelaunch.store.embedded import EmbeddedStore
from support.builders import POOL_ID, a_peer, a_pool_view, a_request
from support.launchers import Running, running

pytestmark = pytest.mark.looptime


def test_wanted_provider_does_not_wait_for_better_pools_of_others() -> None:
    """The better pool leaves the request to the wanted provider: if that one yielded in turn, nobody would serve it."""
    view = a_pool_view(priority=100, more_peers=[a_peer("better", provider="elsewhere", priority=50)])
    ((_, verdict),) = triage([a_request(provider="cloud")], view)
    assert isinstance(verdict, Accept)
    ((_, verdict),) = triage([a_request()], view)
    assert not isinstance(verdict, Accept)
    assert view.pool_id == POOL_ID
