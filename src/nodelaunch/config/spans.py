"""What part of a file each value takes, and what can be written there in its place, for `config migrate`.

What does *not* belong here: which values there are (positions.py), and the writing (migrating.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ruamel.yaml.nodes import CollectionNode, Node

from nodelaunch.config.models import Place
from nodelaunch.config.variables import Text

_ALIAS = re.compile(r"\s*:\s*(\*[^\s,\]}]+)")
"""What follows a key whose value is an alias."""


class Span(NamedTuple):
    """What part of a file is one key with its value, or one item of a list. All are indexes into the file's text."""

    key: tuple[int, int] | None
    start: int
    """Of the value, or of the item behind its dash."""
    end: int
    within: int
    """Where the mapping or list begins that this is part of."""
    in_flow: bool
    """Whether that is one in braces or brackets."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to write in place of something that Nodepool takes, so that it means here what it means there."""

    action: Literal["drop", "rename", "set"]
    place: Place
    value: Any = None
    """The new name, or the value to set."""


def span_of(text: Text, node: Node, around: CollectionNode, key: Node | None = None) -> Span:
    """What *node* takes of the file, within *around*; the value of *key*."""
    start, end = node.start_mark.index, _end_of(node, text.text)
    key_span = None
    if key is not None:
        key_span = (text.file_index(key.start_mark.index), text.file_index(key.end_mark.index))
        if start < key.start_mark.index:
            alias = _ALIAS.match(text.text, key.end_mark.index)
            start, end = alias.span(1) if alias else (key.end_mark.index, key.end_mark.index)
        elif start == node.end_mark.index:  # nothing: it may seem to be lines below
            start = end = key.end_mark.index + 1
    within = text.file_index(around.start_mark.index)
    return Span(key_span, text.file_index(start), text.file_index(end), within, bool(around.flow_style))


def _end_of(node: Node, text: str) -> int:
    """Where *node* ends; comments and empty lines behind it are not its."""
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        end = node.end_mark.index
    else:
        last = node.value[-1]
        nodes = last if isinstance(last, tuple) else (last,)
        inner = [each for each in nodes if each.start_mark.index >= node.start_mark.index]
        end = _end_of(inner[-1], text) if inner else node.end_mark.index
        if isinstance(last, tuple) and len(inner) == 1:  # a key whose value is an alias
            alias = _ALIAS.match(text, end)
            end = alias.end() if alias else end
    return len(text[:end].rstrip())
