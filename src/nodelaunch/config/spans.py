"""The part of a file that each value occupies, and its replacement, for `config migrate`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ruamel.yaml.nodes import CollectionNode, Node

from nodelaunch.config.models import Place
from nodelaunch.config.variables import Text

_ALIAS = re.compile(r"\s*:\s*(\*[^\s,\]}]+)")
"""The text after a key whose value is an alias."""


class Span(NamedTuple):
    """The part of a file with one key and its value, or one item of a list. All are indexes into the file's text."""

    key: tuple[int, int] | None
    start: int
    """The start of the value, or of the item after its dash."""
    end: int
    within: int
    """The start of the enclosing mapping or list."""
    in_flow: bool
    """True if the enclosing mapping or list is in braces or brackets."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change to a key that Nodepool accepts, so that nodelaunch gives it the same meaning."""

    action: Literal["drop", "rename", "set"]
    place: Place
    value: Any = None
    """The new name, or the value to set."""


def span_of(text: Text, node: Node, around: CollectionNode, key: Node | None = None) -> Span:
    """Return the span of *node*, the value of *key*, within *around*."""
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
    """Return the end of *node*, without the comments and empty lines after it."""
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
