"""The classes of the core stay small enough to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "nodelaunch"
MOST_METHODS, MOST_ATTRIBUTES = 25, 15
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 450, 45
LARGE = {
    "cli/main.py make_app": 50,
    "cli/request.py request": 58,
    "config/models.py": 582,
    "config/models.py DiskImageConfig": 17,
    "conformance/probe.py Probe": 28,
    "decisions/machine.py": 503,
    "driverhost/process/supervisor.py Supervisor": 16,
    "driverhost/wire/messages.py": 666,
    "driverhost/wire/messages.py InstanceInfo": 21,
    "drivers/fake/cloud.py FakeCloud": 27,
    "drivers/fake/driver.py FakeDriver": 27,
    "drivers/fake/ledger.py MemoryLedger": 26,
    "drivers/metastatic/driver.py MetastaticDriver": 28,
    "drivers/openstack/client.py Client": 30,
    "engine/launch/node.py": 493,
    "engine/launch/node.py _boot": 48,
    "engine/launch/node.py _launch": 47,
    "launcher.py": 472,
    "monitoring/metrics.py _Facts": 18,
    "monitoring/metrics.py __init__": 69,
    "protocol/driver.py Instance": 21,
    "protocol/records.py Node": 38,
    "store/embedded/socket.py": 604,
    "store/embedded/store.py": 484,
    "store/zookeeper/forest.py": 491,
    "web/messages.py NodeShown": 22,
}
"""Files and functions with more lines, and classes with more methods or attributes, than the limits: add none. Sizes
may only shrink; those of records with given fields may grow with them."""
LATE_IMPORTS = {
    "__init__.py": "`import nodelaunch` gives an error class without a launcher; each public name comes on first use",
    "cli/serve.py": "HTTP, statsd and traces take memory (tests/gates/test_memory.py); traces are an extra",
    "connecting.py": "a command imports the one store that its configuration names: a tenth of its start",
    "drivers/registry.py": "few launchers run drivers in processes: that is half of the import, and needs `drivers`",
    "network/sshscan.py": "asyncssh takes 15 MiB and a fifth of a second, in a thread; few commands scan",
    "pytest_plugin.py": "pytest imports the plugin in each run; the rest takes three times as long as pytest itself",
}
"""Modules that import modules of nodelaunch inside functions, and why their start needs that."""


def methods(cls: ast.ClassDef) -> list[str]:
    return [node.name for node in cls.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def attributes(cls: ast.ClassDef) -> set[str]:
    """Annotated fields of the class, and what its methods assign to ``self``."""
    fields = {
        node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return fields | {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def sizes(source: str) -> Iterator[tuple[str, int, int]]:
    """Yield each thing in *source* that has a limit: name, size and limit; the name of the file itself is empty."""
    yield "", len(source.splitlines()), MOST_LINES_OF_A_FILE
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1, MOST_LINES_OF_A_FUNCTION
            case ast.ClassDef():
                yield node.name, len(methods(node)), MOST_METHODS
                yield node.name, len(attributes(node)), MOST_ATTRIBUTES


def test_only_known_files_functions_and_classes_are_large() -> None:
    found: dict[str, int] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for name, size, limit in sizes(path.read_text()):
            if size > limit:
                key = f"{path.relative_to(SOURCE).as_posix()} {name}".rstrip()
                found[key] = max(size, found.get(key, 0))
    larger = {name: size for name, size in found.items() if size > LARGE.get(name, 0)}
    assert larger == {}, "split it, or group what belongs together"
    assert found == LARGE, "enter the smaller size, and remove what is within the limit"


def test_sizes_are_found() -> None:
    source = "class A:\n    x: int\n\n    def f(self):\n        self.y = 1\n"
    assert [(name, size) for name, size, _ in sizes(source)] == [("", 5), ("A", 1), ("A", 2), ("f", 2)]


def test_no_class_has_the_name_of_another() -> None:
    """A search for a name finds one class."""
    homes: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(path.relative_to(SOURCE).as_posix())
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def late_imports(tree: ast.Module) -> list[int]:
    """The lines inside functions that import a module of nodelaunch, or one that is named only then."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return sorted({node.lineno for function in functions for node in ast.walk(function) if imports_own(node)})


def imports_own(node: ast.AST) -> bool:
    match node:
        case ast.ImportFrom(module=module, level=level):
            return bool(level) or (module or "").partition(".")[0] == "nodelaunch"
        case ast.Import(names=names):
            return any(each.name.partition(".")[0] == "nodelaunch" for each in names)
        case ast.Call(func=ast.Name(id="import_module") | ast.Attribute(attr="import_module")):
            return True
        case _:
            return False


def test_own_modules_are_imported_at_the_top() -> None:
    """A cycle between modules shows, and a reader sees at the top what a module needs. The exceptions have a reason."""
    found = {
        path.relative_to(SOURCE).as_posix(): lines
        for path in sorted(SOURCE.rglob("*.py"))
        if (lines := late_imports(ast.parse(path.read_text())))
    }
    assert {name: lines for name, lines in found.items() if name not in LATE_IMPORTS} == {}
    assert LATE_IMPORTS.keys() - found.keys() == set(), "entries that are not needed any more"


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def packages_above(name: str) -> list[str]:
    return [name[:end] for end, letter in enumerate(name) if letter == "."]


def imported_first(body: list[ast.stmt], modules: Collection[str]) -> Iterator[str]:
    """The modules of nodelaunch that a module with this *body* imports before it is complete."""
    for node in body:
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module in modules:
                yield from ({f"{module}.{each.name}" for each in names} & set(modules)) or {module}
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name in modules)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pass
            case ast.If() | ast.Try() | ast.With():
                yield from imported_first(node.body, modules)


def test_each_module_can_be_imported_first() -> None:
    """A module below a package needs the package too. Which module comes first differs by command and program."""
    bodies = {module_name(path): ast.parse(path.read_text()).body for path in sorted(SOURCE.rglob("*.py"))}
    graph = {
        name: {
            each
            for target in imported_first(body, bodies.keys())
            for each in (target, *packages_above(target))
            if each not in (name, *packages_above(name))
        }
        for name, body in bodies.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("from nodelaunch.log import log\nimport nodelaunch", []),
        ("def f():\n    from nodelaunch.log import log", [2]),
        ("class A:\n    async def f(self):\n        import nodelaunch.log", [3]),
        ("def f():\n    from . import log", [2]),
        ("def f():\n    import json, nodelaunchpad\n    from os import path", []),
        ("def f():\n    def g():\n        importlib.import_module(name)", [3]),
    ],
)
def test_late_imports_are_found(body: str, lines: list[int]) -> None:
    assert late_imports(ast.parse(body)) == lines


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ("x: int\n    y: int = 0", (0, 2)),
        ("def f(self):\n        self.x = self.y = 0", (1, 2)),
        ("def f(self):\n        self.x, self.y = 0, 1\n    async def g(self):\n        self.x += 1", (2, 2)),
        ("def f(self):\n        self.x.y = 0\n        other.z = self.w", (1, 0)),
        ("x: int\n    def f(self):\n        self.x: int = 0", (1, 1)),
    ],
)
def test_methods_and_attributes_are_counted(body: str, size: tuple[int, int]) -> None:
    (cls,) = ast.parse(f"class A:\n    {body}").body
    assert isinstance(cls, ast.ClassDef)
    assert (len(methods(cls)), len(attributes(cls))) == size
