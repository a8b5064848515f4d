"""Source files, modules, classes, functions and methods that pages, docstrings and comments name exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
POINTER = re.compile(r"(?<![\w/.<>*{}-])(?:[a-z_]\w*/)*[a-z_]\w*\.py\b(?!\.in\b)")
TOPS = ("src", "tests", "bench", "examples", "docs")
EXAMPLES = {"kept.py", "openstack/exceptions.py", "openstack/cloud/meta.py"}
"""Files of examples and of other projects."""


def test_every_pointer_names_a_file() -> None:
    sources = [f"/{path.relative_to(ROOT)}" for top in TOPS for path in (ROOT / top).rglob("*.py")]
    sources += [f"/{path.name}" for path in ROOT.glob("*.py")]
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    dangling = [
        f"{text.relative_to(ROOT)}: {pointer}"
        for text in texts
        for pointer in POINTER.findall(text.read_text())
        if pointer not in EXAMPLES
        and not pointer.startswith("webpage/")
        and not any(source.endswith(f"/{pointer}") for source in sources)
    ]
    assert not dangling


SYMBOL = re.compile(r"`((?:[a-z_]\w*/)*[a-z_]\w*\.py)`, `([A-Za-z_]\w*(?:\.(?!py`)[A-Za-z_]\w*)?)`")
"""`file.py`, `name` or `Class.method`, as pages point at code."""
LATER = re.compile(r"`([A-Z]\w*[a-z]\w*\.[a-z_]\w*)`")
"""`Class.method` without a file."""
CODE_PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("code-*.md")), ROOT / "docs" / "architecture.md"]


@cache
def _names(path: Path) -> frozenset[str]:
    """All functions, classes, their members and constants that *path* defines, as ``name`` and ``Class.name``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        for name in _defined(node):
            found.add(name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in _defined(inner)}
    return frozenset(found)


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _sources() -> list[Path]:
    return [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]


def test_every_page_about_the_code_names_what_its_files_define() -> None:
    missing = [
        f"{page.name}: {file}, {name}"
        for page in CODE_PAGES
        for file, name in SYMBOL.findall(" ".join(page.read_text().split()))
        if not any(
            name in _names(source) for source in _sources() if f"/{source.relative_to(ROOT)}".endswith(f"/{file}")
        )
    ]
    assert not missing


def test_every_method_on_a_page_about_the_code_is_there() -> None:
    known = frozenset().union(*map(_names, _sources()))
    missing = [
        f"{page.name}: {name}" for page in CODE_PAGES for name in LATER.findall(page.read_text()) if name not in known
    ]
    assert not missing
