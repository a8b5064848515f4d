"""Nodepool's tests of the metastatic driver's configuration; tests/scenarios/test_metastatic.py tests its behaviour."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.errors import ConfigError
from nodelaunch.launcher import load_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "metastatic.yaml"


def test_metastatic_validator(tmp_path: Path) -> None:
    assert any(provider.driver == "metastatic" for provider in load_config(EXAMPLE).providers)
    conflicting = tmp_path / "nodepool.yaml"
    conflicting.write_text(
        """
labels: [{name: one}, {name: two}, {name: big}]
providers:
  - name: meta
    driver: metastatic
    pools:
      - name: main
        labels:
          - {name: one, backing-label: big, max-parallel-jobs: 2, grace-time: 5}
          - {name: two, backing-label: big, max-parallel-jobs: 2, grace-time: 6}
"""
    )
    with pytest.raises(ConfigError, match="grace-time: has to be the same for each entry with backing-label 'big'"):
        load_config(conflicting)
