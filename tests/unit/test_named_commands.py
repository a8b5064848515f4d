"""Commands that pages, docstrings and printed texts name exist, with their options; so do the sessions of nox."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App

from nodelaunch.cli.main import COMMANDS, make_app

ROOT = Path(__file__).parents[2]
PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
IN_BLOCK = re.compile(r"^(?:.*[&|;] +|[$ ]*)((?:[A-Z_]+=\S+ )*nodelaunch(?: .*)?)$", re.MULTILINE)
"""A line that begins with the command, or has it behind another command."""
IN_TEXT = re.compile(r"(?<=: |& |.')nodelaunch [a-z][^'\n]*")
"""A command in a text for a terminal: after a colon, after another command, or quoted."""
FAMILY = re.compile(r"(?:config|driver|fake-cloud) [a-z]")
"""Short form of a command of a family, without the program's name."""
WORD = re.compile(r"[a-z][a-z-]*")
OPTION = re.compile(r"--?[a-z][a-z-]*")
SESSION = re.compile(r"\b(?:nox|test\.sh) -s ([a-z]+)")


@cache
def app_of(*path: str) -> App:
    if not path:
        return make_app()
    app: App = app_of(*path[:-1])[path[-1]]
    return app


@cache
def options_of(*path: str) -> frozenset[str]:
    """Return the options of the command at *path*, including those of every command."""
    apps = [app_of().meta, *([app_of(*path)] if app_of(*path).default_command else [])]
    arguments = [argument for app in apps for argument in app.assemble_argument_collection()]
    return frozenset({"--help", "-h", "--version"}.union(*(argument.names for argument in arguments)))


def mistake_in(command: str) -> str | None:
    """Return what does not exist of *command*, a line of a shell with or without ``nodelaunch``; None if all does."""
    words = re.split(r" (?:[|;#>&]|2>|--? )", command + " ")[0].replace("[", "").replace("]", "").split()
    path: tuple[str, ...] = ()
    for word in words:
        if not (WORD.fullmatch(word) or OPTION.match(word)) or word == "nodelaunch":
            continue
        if OPTION.match(word):
            if (option := word.partition("=")[0].rstrip(",.")) not in options_of(*path):
                return f"{' '.join(path)} {option}"
        elif path == () or (len(path) == 1 and COMMANDS[path[0]].target.endswith(":app")):
            if word not in app_of(*path):
                return " ".join((*path, word))
            path = (*path, word)
    return None


def commands_in_page(text: str) -> list[str]:
    """Return the commands in blocks and spans of code of *text*, CommonMark."""
    blocks = [block.replace("\\\n", " ") for block in FENCED.findall(text)]
    spans = [" ".join(span.split()) for _, span in SPAN.findall(FENCED.sub("", text))]
    return [
        *(command for block in blocks for command in IN_BLOCK.findall(block)),
        *(span for span in spans if re.match(r"nodelaunch \S", span) or FAMILY.match(span)),
    ]


def commands_in_source(source: str) -> list[str]:
    """Return the commands in docstrings and texts of Python code."""
    tree = ast.parse(source)
    texts = [_text(node) for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.JoinedStr))]
    remedies = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "REMEDY"
        and isinstance(node.value, ast.Constant)
    ]
    return [
        *(command for text in texts for command in commands_in_page(text)),
        *(command for text in texts for command in IN_TEXT.findall(text)),
        *(remedy for remedy in remedies if remedy.startswith("nodelaunch ")),
    ]


def _text(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(_text(part) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)


def public(page: Path) -> str:
    """Return the text of *page*; of the change log, the section that is not released."""
    text = page.read_text()
    return text.split("\n## ")[1] if page.name == "CHANGELOG.md" else text


def test_every_command_on_a_page_exists() -> None:
    found = [(page, command) for page in PAGES for command in commands_in_page(public(page))]
    assert len(found) > 150
    assert not [f"{page.relative_to(ROOT)}: {command}" for page, command in found if mistake_in(command)]


def test_every_command_in_the_source_exists() -> None:
    found = [(path, command) for path in SOURCES for command in commands_in_source(path.read_text())]
    assert len(found) > 30
    assert not [f"{path.relative_to(ROOT)}: {command}" for path, command in found if mistake_in(command)]


def test_every_session_of_nox_exists() -> None:
    sessions = set(re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    texts = [*PAGES, *SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py"), ROOT / "noxfile.py"]
    named = [(path, name) for path in texts for name in SESSION.findall(path.read_text())]
    assert len(named) > 30
    assert not [f"{path.relative_to(ROOT)}: nox -s {name}" for path, name in named if name not in sessions]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("Run `nodelaunch lst`.", "lst"),
        ("```sh\n$ nodelaunch list --provder cloud\n```", "list --provder"),
        ("```sh\ncd /tmp && nodelaunch driver \\\n  chek mine\n```", "driver chek"),
        ("`driver check ./mine --levl=gold`", "driver check --levl"),
        ("`nodelaunch\nexplain [--jsn]`", "explain --jsn"),
    ],
)
def test_mistakes_on_a_page_are_found(text: str, mistake: str) -> None:
    assert list(map(mistake_in, commands_in_page(text))) == [mistake]


@pytest.mark.parametrize(
    ("source", "mistake"),
    [
        ('"""``nodelaunch lst``: lists."""', "lst"),
        ("say(f'checked; run: nodelaunch driver chek {name}')", "driver chek"),
        ("x = \"is 'nodelaunch srve' running?\"", "srve"),
        ("REMEDY: str = 'nodelaunch resme {target}'", "resme"),
    ],
)
def test_mistakes_in_a_source_are_found(source: str, mistake: str) -> None:
    assert mistake in map(mistake_in, commands_in_source(source))
