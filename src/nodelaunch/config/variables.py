"""Puts environment variables into a file's text, and finds the way back from the text to the file.

What does *not* belong here: what the text means (positions.py).
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

_TOKEN = re.compile(r"%\((NODEPOOL_\w*)\)(s(?!\w))?")
"""With an s behind it, it is a mistake for Python's own way to write such things."""

_OTHERWISE = re.compile(r"%\((?!NODEPOOL_)(\w+)\)s?|\$\{?(NODEPOOL_\w+)\}?")
"""What is meant for a variable, and is not taken for one."""


def not_replaced(value: str) -> str | None:
    """What to write where *value* has something that looks like a variable and is none; None: there is no such."""
    match = _OTHERWISE.search(value)
    if match is None:
        return None
    name = match[2] or f"NODEPOOL_{match[1]}"
    if match[2]:
        return f"{match[0]} is not replaced; write %({name})"
    return (
        f"{match[0]} is not replaced, only variables whose names begin with NODEPOOL_ are: write %({name}), and set it"
    )


class Position(NamedTuple):
    """Line and column count from 1; zeros: the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    @property
    def in_words(self) -> str:
        return f"line {self.line}, column {self.column}" if self.line else self.file


class Patch(NamedTuple):
    """One replaced token: where it was in the file, where its replacement is in the text, and what is wrong with it."""

    file_start: int
    file_end: int
    start: int
    end: int
    problem: str | None


@dataclass(frozen=True)
class Text:
    """A file's text with variables put in, and the way back to the file."""

    path: str
    original: str
    text: str
    patches: tuple[Patch, ...]
    line_starts: tuple[int, ...]

    def file_index(self, index: int) -> int:
        """The index in the file of what stands at *index* of the text; for a replacement, where its token begins."""
        before = bisect.bisect_right(self.patches, index, key=lambda patch: patch.start)
        if not before:
            return index
        patch = self.patches[before - 1]
        return patch.file_start if index < patch.end else patch.file_end + index - patch.end

    def position(self, index: int) -> Position:
        """Where in the file that is."""
        index = self.file_index(index)
        line = bisect.bisect_right(self.line_starts, index)
        return Position(self.path, line, index - self.line_starts[line - 1] + 1)

    def patches_in(self, start: int, end: int) -> list[Patch]:
        """Those that have something to do with the text from *start* to *end*."""
        first = bisect.bisect_left(self.patches, start, key=lambda patch: patch.end)
        return list(itertools.takewhile(lambda patch: patch.start < max(end, start + 1), self.patches[first:]))


def substitute(path: str, original: str, environ: Mapping[str, str]) -> Text:
    done: list[str] = []
    patches: list[Patch] = []
    length = taken = 0
    for match in _TOKEN.finditer(original):
        plain = original[taken : match.start()]
        value, problem = _variable(match, environ)
        start = length + len(plain)
        patches.append(Patch(match.start(), match.end(), start, start + len(value), problem))
        done += [plain, value]
        length, taken = start + len(value), match.end()
    text = "".join((*done, original[taken:]))
    line_starts = (0, *(match.end() for match in re.finditer("\n", original)))
    return Text(path, original, text, tuple(patches), line_starts)


def _variable(match: re.Match[str], environ: Mapping[str, str]) -> tuple[str, str | None]:
    """What to put in, and what is wrong. A value that can't be had is stood in for by text that breaks no YAML."""
    name, stray = match.groups()
    if stray:
        return "x", f"write %({name}) without the s behind it, which would become part of the value"
    if name not in environ:
        return "x", f"the environment variable {name} is not set"
    return environ[name], None
