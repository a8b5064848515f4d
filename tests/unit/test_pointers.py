"""Source files, modules, classes, functions and methods that pages, docstrings and comments name exist."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

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
    for node in _parse(path).body:
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


SPAN = re.compile(r"(`{1,2})(?!`)([^`]+)\1(?!`)")
NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(.*\))?", re.DOTALL)
"""A span that is one name, alone or called."""
FOREIGN = {"MaxStartups", "PerSourcePenalties", "api_timeout", "find_library", "grep", "tini"}
"""Names of other programs that the source's texts mention and its code does not."""
MODULE = re.compile(r"(?<![\w/@.*:-])nodelaunch((?:\.[A-Za-z_]\w*)+)")
SUFFIXES = {"invalid", "json", "service", "sqlite", "sock", "yaml"}
"""Last parts of file names and of a host name that begin with ``nodelaunch``."""


COMMENT = re.compile(r"(?:^ *|  )# .*", re.MULTILINE)


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _classes() -> dict[str, ast.ClassDef]:
    trees = [_parse(path) for path in (ROOT / "src").rglob("*.py")]
    return {node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _members(name: str) -> set[str]:
    """Return the members of the class *name* and of its bases in the source; attributes of its instances included."""
    cls = _classes().get(name)
    if cls is None:
        return set()
    found = {member for inner in cls.body for member in _defined(inner)}
    found |= {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    return found.union(*(_members(re.split(r"[\[.]", ast.unparse(base))[-1]) for base in cls.bases))


def _strings(tree: ast.Module) -> tuple[list[str], list[str]]:
    """Return the docstrings of *tree*, and its other strings."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    docstrings = [str(node.value) for node in strings if id(node) in alone]
    return docstrings, [str(node.value) for node in strings if id(node) not in alone]


def _texts(path: Path) -> list[str]:
    """Return the docstrings and comments of Python code."""
    return _strings(_parse(path))[0] + COMMENT.findall(path.read_text())


@cache
def _known() -> frozenset[str]:
    """All names of the source's code and the words of its short strings, in lower case, and Python's own names."""
    found = set(dir(builtins))
    for path in (ROOT / "src").rglob("*.py"):
        nodes = list(ast.walk(_parse(path)))
        values = [getattr(node, field, None) for node in nodes for field in ("id", "attr", "arg", "name", "asname")]
        short = [text for text in _strings(_parse(path))[1] if len(text.split()) <= 3]
        found |= {word for text in (*values, *short) if isinstance(text, str) for word in re.findall(r"\w+", text)}
        found |= {path.parent.name, path.stem}
    return frozenset(name.lower() for name in found)


def unknown_names(texts: list[str]) -> Iterator[str]:
    """Yield the names in backticks that the source does not define: members of its classes, and other names."""
    for _, span in SPAN.findall("\n\n".join(texts)):
        if not (named := NAME.fullmatch(" ".join(span.split()))) or span.endswith(".py"):
            continue
        parts = named[1].split(".")
        is_member = len(parts) == 2 and parts[0] in _classes()
        exists = parts[1] in _members(parts[0]) if is_member else all(part.lower() in _known() for part in parts)
        if not exists and FOREIGN.isdisjoint(parts) and parts[-1] not in SUFFIXES:
            yield span


def _exists(dotted: str) -> bool:
    """Return True if *dotted*, such as ``.web.app.make_app``, is a module, or a name or a member in a module."""
    parts = dotted.split(".")[1:]
    module = ROOT / "src" / "nodelaunch"
    while parts and ((module / parts[0]).is_dir() or (module / f"{parts[0]}.py").is_file()):
        module /= parts.pop(0)
    if not parts:
        return True
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    imported = (node for node in ast.walk(_parse(file)) if isinstance(node, ast.ImportFrom))
    names = {alias.asname or alias.name for node in imported for alias in node.names} | _names(file)
    return parts[0] in names and set(parts[1:]) <= _members(parts[0])


def unknown_modules(text: str) -> list[str]:
    """Return the dotted names of this package in *text* that do not exist."""
    return [
        f"nodelaunch{dotted}"
        for dotted in MODULE.findall(text)
        if dotted.rpartition(".")[2] not in SUFFIXES and not _exists(dotted)
    ]


def test_every_name_in_docstrings_and_comments_is_in_the_code() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for name in unknown_names(_texts(path))
    ]
    assert not missing


def test_every_module_that_pages_and_docstrings_name_is_there() -> None:
    pages = {path: path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))}
    sources = {path: "\n".join(_texts(path)) for path in (ROOT / "src").rglob("*.py")}
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in sorted((pages | sources).items())
        for name in unknown_modules(text)
    ]
    assert not missing


@pytest.mark.parametrize(
    "text",
    ["`no_such_function`", "``NoSuchClass``", "`Launcher.no_such_method`", "`no_such_function(a, b)`", "`x.no_such`"],
)
def test_missing_names_are_found(text: str) -> None:
    assert list(unknown_names([text]))


@pytest.mark.parametrize("text", ["`Launcher.run`", "`asyncio.timeout`", "``delete_instance(1)``", "``a b``", "`=`"])
def test_names_that_exist_pass(text: str) -> None:
    assert not list(unknown_names([text]))


@pytest.mark.parametrize("name", ["no_such", "engine.no_such", "launcher.no_such", "launcher.Launcher.no_such"])
def test_missing_modules_are_found(name: str) -> None:
    assert unknown_modules(f"in nodelaunch.{name}.") == [f"nodelaunch.{name}"]
