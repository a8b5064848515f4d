"""The classes of the core stay small enough to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "nodelaunch"
CORE = ("launcher.py", "leases", "engine", "store", "decisions", "protocol")
MOST_METHODS, MOST_ATTRIBUTES = 25, 15
RECORDS = {"Instance", "Node", "NodeRequest"}
"""Records of a wire format or of a port, whose fields are given."""
LATE_IMPORTS = {
    "__init__.py": "`import nodelaunch` gives an error class without a launcher; each public name comes on first use",
    "cli/serve.py": "traces need OpenTelemetry, which is in an extra",
    "connecting.py": "a command imports the one store that its configuration names: a tenth of its start",
    "drivers/registry.py": "few launchers run drivers in processes: that is half of the import, and needs `drivers`",
    "network/sshscan.py": "asyncssh takes 15 MiB and a fifth of a second, in a thread; few commands scan",
    "pytest_plugin.py": "pytest imports the plugin in each run; the rest takes three times as long as pytest itself",
}
"""Modules that import modules of nodelaunch inside functions, and why their start needs that."""


def core_files() -> Iterator[Path]:
    for name in CORE:
        path = SOURCE / name
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def core_classes() -> Iterator[ast.ClassDef]:
    for path in core_files():
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))


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


def is_too_large(cls: ast.ClassDef) -> bool:
    has_too_many_attributes = cls.name not in RECORDS and len(attributes(cls)) > MOST_ATTRIBUTES
    return len(methods(cls)) > MOST_METHODS or has_too_many_attributes


def test_classes_of_the_core_have_few_methods_and_attributes() -> None:
    found = {
        cls.name: f"{len(methods(cls))} methods, {len(attributes(cls))} attributes"
        for cls in core_classes()
        if is_too_large(cls)
    }
    assert found == {}


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
