"""A client whose request fails gets the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.engine.reporting.explainrpc import ANSWER_TIMEOUT_S, why
from nodelaunch.errors import RequestFailedError
from support.launchers import CONFIG, LoopClock, running

pytestmark = pytest.mark.looptime


async def test_label_that_nobody_offers(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        asked_at = LoopClock().now()
        with pytest.raises(RequestFailedError) as caught:
            async with site.client.nodes(["small", "huge"]):
                pass
        assert LoopClock().now() < asked_at + ANSWER_TIMEOUT_S  # a launcher that does not answer is not waited for
        (line,) = caught.value.reasons
        assert line.startswith("cloud/main: declined: ")
        assert "huge" in line
        assert line in str(caught.value)


async def test_launches_that_failed(tmp_path: Path) -> None:
    config = CONFIG.replace("    launch-retries: 2", "    failure-rate: 1.0\n    launch-retries: 2")
    async with running(tmp_path, config) as site:
        with pytest.raises(RequestFailedError) as caught:
            async with site.client.nodes(["small"]):
                pass
        (line,) = caught.value.reasons
        assert "it went to ERROR" in line


async def test_nobody_who_could_tell(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        request = await site.finished("small")
        assert [line.partition(" ")[0] for line in await why(site.client.store, request.id)] == ["cloud/main:"]
        assert await why(site.client.store, type(request.id)("200-9999999999")) == ()
