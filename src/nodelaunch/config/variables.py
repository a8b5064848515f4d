"""Replaces environment variables in a file's text, and maps positions in the result back to the file."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

_TOKEN = re.compile(r"%\((NODEPOOL_\w*)\)(s(?!\w))?")
"""A variable; a trailing s is an error, from Python's own format ``%(name)s``."""

_OTHERWISE = re.compile(r"%\((?!NODEPOOL_)(\w+)\)s?|\$\{?(NODEPOOL_\w+)\}?")
"""Text that looks like a variable, and is not replaced."""


def not_replaced(value: str) -> str | None:
    """Return a message if *value* has text that looks like a variable and is not replaced; else None."""
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
    """A position in a file. Line and column count from 1; zeros: the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    @property
    def in_words(self) -> str:
        return f"line {self.line}, column {self.column}" if self.line else self.file


class Patch(NamedTuple):
    """A replaced token: its position in the file, that of its replacement in the text, and its problem."""

    file_start: int
    file_end: int
    start: int
    end: int
    problem: str | None


@dataclass(frozen=True)
class Text:
    """A file's text with variables replaced, and the mapping back to the file."""

    path: str
    original: str
    text: str
    patches: tuple[Patch, ...]
    line_starts: tuple[int, ...]

    def file_index(self, index: int) -> int:
        """Return the index in the file for *index* in the text; in a replacement, the start of its token."""
        before = bisect.bisect_right(self.patches, index, key=lambda patch: patch.start)
        if not before:
            return index
        patch = self.patches[before - 1]
        return patch.file_start if index < patch.end else patch.file_end + index - patch.end

    def position(self, index: int) -> Position:
        """Return the position in the file for *index* in the text."""
        index = self.file_index(index)
        line = bisect.bisect_right(self.line_starts, index)
        return Position(self.path, line, index - self.line_starts[line - 1] + 1)

    def patches_in(self, start: int, end: int) -> list[Patch]:
        """Return the patches that overlap the text from *start* to *end*."""
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
    """Return the replacement and its problem. A missing value becomes a text that keeps the YAML valid."""
    name, stray = match.groups()
    if stray:
        return "x", f"write %({name}) without the s after it; the s would become part of the value"
    if name not in environ:
        return "x", f"the environment variable {name} is not set"
    return environ[name], None
