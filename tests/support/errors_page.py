"""docs/errors.md, made from the source: ``cd tests; python -m support.errors_page`` writes it again."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from nodelaunch import errors

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
HEAD = """# Errors

What goes wrong, by the names that programs see. What people see is in the [troubleshooting](troubleshooting.md) page
and in the [list of log events](log-events.md).

## In Python

All of `nodelaunch.errors`. Each is a kind of the one behind it: `except NodelaunchError` catches all that this package
raises on purpose.

| Error | Is a | Means |
| --- | --- | --- |
"""
OVER_HTTP = """
## Over HTTP

Errors of `/api/v1` are problem documents (RFC 9457). `type` ends with one of these names; `detail` says more.

| Name | Status | Says |
| --- | --- | --- |
"""


def page() -> str:
    return HEAD + "\n".join([*_classes(), *OVER_HTTP.splitlines(), *_problems()]) + "\n"


def _classes() -> Iterator[str]:
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.NodelaunchError):
            first = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
            means = re.sub(r"\*(\w+)\*|``(.+?)``", lambda found: f"`{found[1] or found[2]}`", first)
            yield f"| `{name}` | `{kind.__base__.__name__ if kind.__base__ else ''}` | {means} |"


def _problems() -> list[str]:
    """Return the texts of all calls that make a problem from literals."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "src" / "nodelaunch" / "web").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                status, name, says = map(_literal, node.args[:3])
                if status and name:
                    found.setdefault(name, f"| `{name}` | {status} | {says} |")
    return [found[name] for name in sorted(found)]


def _literal(node: ast.expr) -> str:
    """Return the text of *node*, with N for parts that are known only at run time."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_literal, node.values))
    if isinstance(node, ast.FormattedValue):
        return "N"
    return str(node.value) if isinstance(node, ast.Constant) else ""


if __name__ == "__main__":
    PAGE.write_text(page())
