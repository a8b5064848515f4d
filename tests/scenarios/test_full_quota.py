"""A backlog on a cloud that is always full: requests are served in order, no quota is wasted, no limit is exceeded."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.backlog import CAPACITY, work_off

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize("seed", range(2))
async def test_full_cloud_serves_a_mixed_backlog_in_order_and_stays_full(tmp_path: Path, seed: int) -> None:
    report = await work_off(tmp_path, seed)
    assert report.most == CAPACITY
    assert report.utilisation > 0.95
    assert report.overtaken == []
