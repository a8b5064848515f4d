"""Leftovers of a node in the worked driver in plain Python, after an interrupted delete."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from support.processes import EXAMPLES, example


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    loader = importlib.machinery.SourceFileLoader("command_example", example("command"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    made = module.CommandDriver()
    made.config = {"pools": [{"name": "main", "labels": [{"name": "small", "command": "exec sleep 1000"}]}]}
    made.open({"state-dir": str(tmp_path)})
    made.progress = lambda *_: None
    return made


def test_delete_that_was_cut_short_is_gone_on_with(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = driver.create({"name": "np1", "pool": "main", "label": "small", "metadata": {}})
    with monkeypatch.context() as killed:
        killed.setattr(os, "killpg", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            driver.delete(node)
    assert [instance["external_id"] for instance in driver.list()] == [node]
    driver.pause = lambda _seconds: None
    driver.delete(node)
    assert driver.resources() == {}
    assert driver.list() == []


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
