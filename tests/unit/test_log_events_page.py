"""docs/log-events.md names every event of the log with its levels, and none that there is not."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from nodelaunch.decisions.machine import Outcome

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "nodelaunch"
PAGE = (ROOT / "docs" / "log-events.md").read_text()

LOGGERS = {"log", "_log", "log_"}
LEVELS = {level: {level} for level in ("debug", "info", "warning", "error", "critical")} | {"exception": {"traceback"}}
OTHER_METHODS = {"log", "msg", "warn", "err", "fatal", "failure"}
NOT_HERE = {Outcome.LOCK_REFUSED}
"""Outcomes that `_report` in engine/serve/handler.py logs by a name of their own."""
NEVER_ROUTINE = {f"request_{outcome.name.lower()}" for outcome in Outcome if outcome is not Outcome.DECLINED} - {
    "request_refused"
}
"""Events of requests that are never logged at debug level."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Found = dict[str, set[str]]


def _is_logger(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id in LOGGERS) or (
        isinstance(node, ast.Attribute) and node.attr in LOGGERS
    )


class Module:
    """The events of one source file. What it can't read is an AssertionError, so that nothing is left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text())
        self.found: Found = defaultdict(set)
        self._functions: list[Function] = []
        self._assignments: dict[Function, dict[str, ast.expr]] = {}
        self._used: set[ast.expr] = set()
        """Methods of loggers that are called, or chosen between by the level."""
        self._visit(self.tree)

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, Function):
            self._functions.append(node)
        if isinstance(node, ast.Call) and (levels := self._levels(node)):
            event = node.args[1 if "any" in levels else 0]
            for name in self._texts(event):
                self.found[name] |= levels - {"any"} or {"warning", "error", "critical"}
                if name in NEVER_ROUTINE:
                    self.found[name].discard("debug")
        if isinstance(node, ast.Call):
            self._used.add(node.func)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp):
            self._used |= {node.value.body, node.value.orelse}
        if isinstance(node, ast.Attribute) and node.attr in LEVELS and _is_logger(node.value):
            assert node in self._used, f"{self._place(node)}: who calls that?"
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            self._look_at_logger(node.targets[0], node.value)
        for child in ast.iter_child_nodes(node):
            self._visit(child)
        if isinstance(node, Function):
            self._functions.pop()

    def _look_at_logger(self, target: ast.expr, made: ast.Call) -> None:
        """A logger by another name would be passed over."""
        is_logger = isinstance(made.func, ast.Name) and made.func.id == "get_logger"
        is_logger |= isinstance(made.func, ast.Attribute) and made.func.attr == "bind" and _is_logger(made.func.value)
        assert not is_logger or _is_logger(target), f"{self._place(target)}: call it one of {LOGGERS}"

    def _levels(self, call: ast.Call) -> set[str]:
        """Return the levels at which *call* logs; none if it doesn't. "any": its first argument is the level."""
        match call.func:
            case ast.Attribute(value=logger, attr=method) if _is_logger(logger):
                assert method not in OTHER_METHODS, f"{self._place(call)}: what is the level?"
                return LEVELS.get(method, set())
            case ast.Attribute(value=ast.Call(func=ast.Attribute(attr="get_logger")), attr="log"):
                return {"any"}  # what libraries say, from warnings upwards
            case ast.Name(id=name) if self._functions:
                given = self._assigned(name)
                if isinstance(given, ast.IfExp) and isinstance(given.body, ast.Attribute):
                    return self._levels(ast.Call(given.body, [], [])) | self._levels(ast.Call(given.orelse, [], []))
            case ast.Call(func=ast.Name(id="getattr"), args=[logger, level]) if _is_logger(logger):
                assert ast.unparse(level) == "note.level", self._place(call)
                return _levels_of_notes()
        return set()

    def _texts(self, node: ast.expr) -> set[str]:
        """Return the possible values of *node*."""
        match node:
            case ast.Constant(value=str(text)):
                return {text}
            case ast.IfExp(body=one, orelse=other):
                return self._texts(one) | self._texts(other)
            case ast.Name(id=name) if (given := self._assigned(name)) is not None:
                return self._texts(given)
            case ast.Name(id=name):
                return self._passed(name)
            case ast.BinOp(left=ast.Constant(value=str(start)), right=end):
                assert ast.unparse(end) == "outcome.name.lower()", f"{self._place(node)}: which event is it?"
                return {start + outcome.name.lower() for outcome in Outcome if outcome not in NOT_HERE}
            case ast.Attribute(attr="_opened_event"):
                return {f"{kind}_unavailable" for kind in self._kinds()}
            case ast.Attribute(attr="_closed_event"):
                return {f"{kind}_available" for kind in self._kinds()}
        raise AssertionError(f"{self._place(node)}: which event is it?")

    def _assigned(self, name: str) -> ast.expr | None:
        function = self._functions[-1]
        if function not in self._assignments:
            self._assignments[function] = {
                target.id: node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
        return self._assignments[function].get(name)

    def _passed(self, name: str) -> set[str]:
        """Return the arguments that the current function is called with, in its file."""
        function = self._functions[-1]
        arguments = [argument.arg for argument in function.args.args]
        calls = [
            call.args[arguments.index(name) - 1]
            for call in self._calls()
            if isinstance(call.func, ast.Attribute) and call.func.attr == function.name
        ]
        assert calls, f"{self.path}: who calls {function.name}?"
        return set().union(*map(self._texts, calls))

    def _kinds(self) -> set[str]:
        """Return the kinds of breakers: the first word of their titles."""
        titles = [call.args[0] for call in self._calls() if ast.unparse(call.func) == "Breakers"]
        return {title.value.split()[0] for title in titles if isinstance(title, ast.Constant)}

    def _calls(self) -> Iterator[ast.Call]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def _place(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(SOURCE)}:{getattr(node, 'lineno', '?')}"


def _levels_of_notes() -> set[str]:
    from nodelaunch.driverhost.wire.messages import LogNote

    return set(LogNote.model_fields["level"].annotation.__args__)  # type: ignore[union-attr]


@cache
def _in_source() -> Found:
    found: Found = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        for event, levels in Module(path).found.items():
            found[event] |= levels
    return dict(found)


def _rows() -> list[tuple[str, set[str], str, str]]:
    cells = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| ?([^|]*) ?\|$", PAGE, re.MULTILINE)
    return [(event, set(levels.split(", ")), says.strip(), remedy.strip()) for event, levels, says, remedy in cells]


def test_page_and_source_agree() -> None:
    assert {event: levels for event, levels, *_ in _rows()} == _in_source()


def test_each_row_is_read_and_says_something() -> None:
    rows = _rows()
    assert len(rows) == sum(line.startswith("| `") for line in PAGE.splitlines())
    assert len({event for event, *_ in rows}) == len(rows)
    assert all(says for _, _, says, _ in rows)


def test_whoever_is_paged_knows_what_to_do() -> None:
    assert not [event for event, levels, _, remedy in _rows() if levels & {"error", "traceback"} and not remedy]


def test_every_logger_is_the_packages_own() -> None:
    """Otherwise it prints in a program that has configured neither structlog nor Python's logging."""
    home = SOURCE / "log.py"
    found = [path for path in SOURCE.rglob("*.py") if path != home and "structlog.get_logger" in path.read_text()]
    assert not found


def test_names_are_constants() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", event) for event in _in_source())
