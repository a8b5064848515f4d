"""Every behaviour that Nodepool tests is tested here under the same name, or explained in docs/compatibility.md.

The names are those of the functions in Nodepool 11's tests of its launcher, static and metastatic drivers.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MANUAL = TESTS.parent / "docs" / "compatibility.md"

NAMES = Path(__file__).with_name("nodepool_tests.txt").read_text()


def _test_functions() -> set[str]:
    """The names of all test functions there are."""
    trees = (ast.parse(path.read_text()) for path in TESTS.rglob("test_*.py"))
    functions = (node for tree in trees for node in ast.walk(tree))
    return {node.name for node in functions if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _explained() -> set[str]:
    """The names at the beginning of a row of a table in the manual: ``| `test_name` | ...``."""
    return set(re.findall(r"^\| `(test_\w+)` \|", MANUAL.read_text(), re.MULTILINE))


def _names() -> dict[str, list[str]]:
    """The names in the list, by the driver whose headings they are below."""
    names: dict[str, list[str]] = {}
    for block in NAMES.split("# ")[1:]:
        heading, *listed = block.split("\n")
        names.setdefault(heading.partition(":")[0], []).extend(filter(None, listed))
    return names


@pytest.mark.parametrize(("driver", "count"), [("launcher", 93), ("static", 27), ("metastatic", 8)])
def test_each_behaviour_has_a_test_or_an_explanation(driver: str, count: int) -> None:
    names = set(_names()[driver])
    assert len(names) == count
    assert names - _test_functions() - _explained() == set()


def test_only_behaviours_of_nodepool_are_explained() -> None:
    assert _explained() <= {name for names in _names().values() for name in names}
