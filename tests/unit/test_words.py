"""Prose keeps to the rule of CONTRIBUTING.md, "Words", as far as regular expressions can check it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
BANNED = {
    r"fates?": "outcome",
    r"outlooks?": "forecast, or the noun that is meant",
    r"heralds?": "notify",
    r"debris": "leaked resources, or remains",
    r"(?<!zoo)keepers?": "owner",
    r"desks?": "the noun that is meant",
    r"(?:some|any|no|every)body": "the noun: a client, an operator, another launcher",
    r"(?:who|what|which)ever": "the noun, with any, each or every",
    r"(?:gone|going|goes|go|went) on with": "resume, continue",
    r"so it is when": "the same holds when",
    r"those there are": "the noun",
    r"what there is": "the noun",
    r"(?:is|are|was|were) at it": "the verb that is meant",
    r"begun": "started, interrupted",
    r"mend(?:s|ed|ing)?": "repair, correct, fix",
    r"(?:tell|telling) of": "report",
    r"tells|told": "notify, report, say, distinguish",
    r"room": "capacity, free capacity",
    r"would (?:it|they|these|this|that) \w+,": "if",
    r"(?<=[.!?:] )Should (?:a|an|it|they|these|this|that|the|\w+s)\b(?![^.]*\?)": "if",
}
"""Words and constructions as regular expressions, each with what to write instead."""
SOURCES = sorted(
    path.relative_to(ROOT).as_posix() for top in ("src", "bench", "examples") for path in (ROOT / top).rglob("*.py")
)
TESTS = sorted(folder.name for folder in (ROOT / "tests").iterdir() if any(folder.rglob("*.py")))
OPENING = re.compile(r"(?:What|Whether|One|Those|Of|By|It|That|Who|Which|So)\b(?!-)")
"""First words of a docstring that hide its subject: begin with a verb, or with the noun that is returned."""
FENCED = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`+[^`]+`+")
EXAMPLES = re.compile(r"^## Words\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Return *text* without code, and without the examples of CONTRIBUTING.md, with single spaces."""
    for pattern in (FENCED, CODE, EXAMPLES):
        text = pattern.sub("CODE", text)
    return " ".join(text.split())


def findings(text: str) -> list[str]:
    """Return one line for each banned word in *text*: the word in its sentence, and what to write instead."""
    plain = prose(text)
    return [
        f"...{plain[max(0, hit.start() - 50) : hit.end() + 30]}...: write {instead}"
        for pattern, instead in BANNED.items()
        for hit in re.finditer(rf"\b(?:{pattern})", plain, re.IGNORECASE)
        if hit.end() == len(plain) or not plain[hit.end()].isalnum()
    ]


def docstrings_of(tree: ast.Module) -> list[str]:
    """Return the docstrings of *tree*, those below attributes and constants included."""
    found = []
    for node in ast.walk(tree):
        body = node.body if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) else []
        for before, statement in zip((None, *body), body, strict=False):
            match statement:
                case ast.Expr(ast.Constant(str(text))) if before is None or isinstance(
                    before, (ast.Assign, ast.AnnAssign)
                ):
                    found.append(text)
    return found


def comments_of(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]


def texts_of(source: str) -> str:
    """Return the docstrings, the comments and the strings of three words or more of Python code, as paragraphs."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 2
    ]
    return "\n\n".join([*strings, *comments_of(source)])


def source_findings(source: str) -> list[str]:
    """Return the `findings` in the texts of Python code, and one line for each docstring that opens without a noun."""
    return findings(texts_of(source)) + openings(docstrings_of(ast.parse(source)))


def openings(docstrings: list[str]) -> list[str]:
    return [f"{text[:60]}...: begin with a verb or a noun" for text in docstrings if OPENING.match(text)]


def prose_findings(source: str) -> list[str]:
    """Return the findings in docstrings and comments only: strings of tests quote what others write."""
    docstrings = docstrings_of(ast.parse(source))
    return findings("\n\n".join([*docstrings, *comments_of(source)])) + openings(docstrings)


def findings_in_tests(folder: str) -> list[str]:
    """Return the findings of all files in *folder*, each with its file."""
    return [
        f"{path.relative_to(ROOT)}: {finding}"
        for path in sorted((ROOT / "tests" / folder).rglob("*.py"))
        for finding in prose_findings(path.read_text())
    ]


@pytest.mark.parametrize("folder", TESTS)
def test_tests_keep_to_the_rule(folder: str) -> None:
    assert not findings_in_tests(folder)


@pytest.mark.parametrize("source", SOURCES)
def test_source_keeps_to_the_rule(source: str) -> None:
    assert not source_findings((ROOT / source).read_text())


@pytest.mark.parametrize("page", PAGES)
def test_page_keeps_to_the_rule(page: str) -> None:
    assert not findings((ROOT / page).read_text())


@pytest.mark.parametrize(
    "text",
    [
        "The fate of a node.",
        "Whoever asks for a node waits.",
        "The keeper of a lock.",
        "The launch is gone\non with.",
        "The pool is told.",
        "A launcher tells of it.",
        "It ends. Should a launcher die, another resumes.",
        "```sh\nls\n```\n\nwhoever\n\n```sh\nls\n```",
        "`ls` by somebody with `ls`",
    ],
)
def test_banned_words_are_found(text: str) -> None:
    assert findings(text)


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Return whatever it is."""\n',
        'class A:\n    b: int\n    """What it has."""\n',
        '"""One of them."""\n',
        "raise ValueError('the pool is told')\n",
        "x = 1  # nobody asks\n",
    ],
)
def test_banned_words_are_found_in_sources(source: str) -> None:
    assert source_findings(source)


@pytest.mark.parametrize(
    "source", ["whatever = 1\n", "x = 'nobody'\n", '"""One-shot."""\n', '"""Return `whatever`."""\n']
)
def test_other_sources_pass(source: str) -> None:
    assert not source_findings(source)


@pytest.mark.parametrize(
    "text",
    ["ZooKeeper", "`debris_removed` is an event.", "a desktop", "It should end.", "```\nwhoever\n```", "a mender"],
)
def test_other_words_pass(text: str) -> None:
    assert not findings(text)
