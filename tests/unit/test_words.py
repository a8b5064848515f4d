"""Prose keeps to the rule of CONTRIBUTING.md, "Words", as far as regular expressions can check it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
TODO = {
    "docs/drivers/fake.md",
    "docs/drivers/garm.md",
    "docs/drivers/installing.md",
    "docs/drivers/metastatic.md",
    "docs/drivers/openstack.md",
    "docs/drivers/process.md",
    "docs/drivers/static.md",
}
"""Pages that do not keep to the rule yet. Remove a page when it does; add none."""
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
FENCED = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`]*`")
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


@pytest.mark.parametrize("page", sorted(set(PAGES) - TODO))
def test_page_keeps_to_the_rule(page: str) -> None:
    assert not findings((ROOT / page).read_text())


@pytest.mark.parametrize("page", sorted(TODO))
def test_page_still_to_do_has_something_to_do(page: str) -> None:
    assert findings((ROOT / page).read_text()), f"remove {page} from TODO"


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
    "text",
    ["ZooKeeper", "`debris_removed` is an event.", "a desktop", "It should end.", "```\nwhoever\n```", "a mender"],
)
def test_other_words_pass(text: str) -> None:
    assert not findings(text)
