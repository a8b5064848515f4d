"""Reads one YAML file into plain data, and records the position of each key and value.

YAML is read as by Nodepool (version 1.1: ``yes`` is true). Before that, ``%(NODEPOOL_X)`` is replaced by the text of
that environment variable, including line breaks; positions are those in the original file. Values from the environment
or from a file of secrets are *hidden*: their places are recorded, and no message shows them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from nodelaunch.config.messages import yaml_trouble
from nodelaunch.config.models import Place
from nodelaunch.config.spans import Remedy, Span, span_of
from nodelaunch.config.storepart import mentions, part_of
from nodelaunch.config.variables import Position, Text, not_replaced, substitute
from nodelaunch.errors import ConfigProblem

MAX_DEPTH = 50
"""The deepest nesting of a configuration; deeper nesting is an error."""
MAX_VALUES = 200_000
"""The most values in a configuration, with aliases expanded; more are an error, or an attack by aliases of aliases."""
_MERGE_TAG = "tag:yaml.org,2002:merge"
_CORE = "tag:yaml.org,2002:"
_NO_TAGS = "YAML tags (!...) have no meaning here; write the value itself"
_COLLECTION_TAGS = {f"{_CORE}map", f"{_CORE}seq"}
_OCTAL = re.compile(r"[-+]?0[0-7_]+").fullmatch
_SCALAR_TAGS = {f"{_CORE}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}


@dataclass
class Source:
    """A file's data with the positions of its values, and its problems."""

    path: str
    is_secret: bool = False
    text: str = ""
    """The text of the file."""
    data: dict[str, Any] | None = None
    """The data; None if the file can't be read."""
    values: dict[Place, Position] = field(default_factory=dict)
    keys: dict[Place, Position] = field(default_factory=dict)
    hidden: set[Place] = field(default_factory=set)
    """Places whose value must not be shown."""
    hidden_keys: set[Place] = field(default_factory=set)
    """Places whose key must not be shown; a key in a secret file may be shown if it is a known key."""
    unresolved: set[Place] = field(default_factory=set)
    """Places whose value could not be determined; further problems there are not reported."""
    troubled: set[Position] = field(default_factory=set)
    problems: list[ConfigProblem] = field(default_factory=list)
    warnings: list[ConfigProblem] = field(default_factory=list)
    remedies: list[tuple[ConfigProblem, Remedy]] = field(default_factory=list)
    """Remedies for problems and warnings."""
    spans: dict[Place, Span] | None = None
    """The spans of values; None if they were not requested."""

    def position(self, place: Place, *, of_key: bool = False) -> Position:
        """Return the position of *place*, or of the nearest value around it that has one."""
        if of_key and place in self.keys:
            return self.keys[place]
        while place and place not in self.values:
            place = place[:-1]
        return self.values.get(place, Position(self.path, 1, 1))

    def complain(
        self,
        place: Place,
        message: str,
        *,
        of_key: bool = False,
        first_only: bool = False,
        remedy: Remedy | None = None,
    ) -> None:
        """Add a problem; *first_only*: unless that position already has one."""
        position = self.position(place, of_key=of_key)
        if place not in self.unresolved and not (first_only and position in self.troubled):
            self.complain_at(position, message)
            self._note_remedy(self.problems[-1], remedy)

    def _note_remedy(self, problem: ConfigProblem, remedy: Remedy | None) -> None:
        if remedy is not None:
            self.remedies.append((problem, remedy))

    def complain_at(self, position: Position, message: str) -> None:
        self.problems.append(ConfigProblem(*position, message))
        self.troubled.add(position)

    def warn(self, place: Place, message: str, *, of_key: bool = False, remedy: Remedy | None = None) -> None:
        self.warn_at(self.position(place, of_key=of_key), message)
        self._note_remedy(self.warnings[-1], remedy)

    def warn_at(self, position: Position, message: str) -> None:
        self.warnings.append(ConfigProblem(*position, message))

    def is_hidden(self, place: Place) -> bool:
        return place in self.hidden

    def is_elsewhere(self, place: Place) -> bool:
        """Return True if *place* is from another file."""
        return self.position(place).file != self.path

    def graft(self, other: Source, old: Place, new: Place) -> None:
        """Copy positions and flags of *old* and everything below it in *other* to *new* in this source."""
        for mine, theirs in ((self.values, other.values), (self.keys, other.keys)):
            mine.update({(*new, *place[len(old) :]): at for place, at in theirs.items() if place[: len(old)] == old})
        for marked, theirs_marked in (
            (self.hidden, other.hidden),
            (self.hidden_keys, other.hidden_keys),
            (self.unresolved, other.unresolved),
        ):
            marked.update({(*new, *place[len(old) :]) for place in theirs_marked if place[: len(old)] == old})

    def rename(self, old: Place, new: Place) -> None:
        """Move position and flags of the single value at *old* to *new*."""
        self.values[new], self.keys[new] = self.position(old), self.position(old, of_key=True)
        for marked in (self.hidden, self.unresolved):
            if old in marked:
                marked.add(new)
        if self.spans is not None and old in self.spans:
            self.spans[new] = self.spans[old]


def read_source(
    path: str,
    environ: Mapping[str, str],
    *,
    is_secret: bool = False,
    with_spans: bool = False,
    only: Collection[str] | None = None,
) -> Source:
    """Read the YAML file at *path*; with *only*, just these top-level keys, even if the rest is broken.

    Errors in the file are not raised: they are in ``problems``.
    """
    source = Source(path, is_secret, spans={} if with_spans else None)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        source.complain_at(Position(path), f"can't be read: {error.strerror or error}")
        return source
    except ValueError:
        source.complain_at(Position(path), "can't be read: the path has a null byte in it")
        return source
    try:
        original = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        here = Position(path, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        source.complain_at(here, "not UTF-8 text; save the file in that encoding")
        return source
    if only is None:
        return _parsed(source, original, environ)
    part = part_of(original, only)
    if not part and not mentions(original, only):
        source.text, source.data = original, {}
        return source
    return _parsed(source, part, environ)


def read_text(path: str, text: str, environ: Mapping[str, str]) -> Source:
    """Read the YAML in *text*, the text of *path*, with the spans of its values."""
    return _parsed(Source(path, spans={}), text, environ)


def _parsed(source: Source, original: str, environ: Mapping[str, str]) -> Source:
    source.text = original
    _Parser(source, substitute(source.path, original, environ)).parse()
    return source


# -- YAML -----------------------------------------------------------------------------------------------------------


class _Parser:
    """Turns text into plain data, and records the position of each key and value."""

    def __init__(self, source: Source, text: Text) -> None:
        self.source = source
        self.text = text
        self.yaml = YAML(typ="safe", pure=True)
        self.yaml.version = (1, 1)
        self.yaml.composer.warn_double_anchors = False  # YAML allows it: an alias means the anchor before it
        self.values = 0
        self.within: list[Node] = []

    def parse(self) -> None:
        with warnings.catch_warnings():
            # The parser's warnings about numbers such as 1e3 are for programmers; the code that uses a value reports
            # its problems.
            warnings.simplefilter("ignore", MantissaNoDotYAML1_1Warning)
            self._parse()

    def _parse(self) -> None:
        node = self._compose()
        if node is None:
            return
        if not isinstance(node, MappingNode):
            hint = "; a key's colon needs a space behind it" if isinstance(node, ScalarNode) else ""
            self._complain(node, f"keys such as labels: and providers: are expected at the top of the file{hint}")
            return
        try:
            self._note(node, ())
            self.source.data = self._mapping(node, ())
        except _TooManyValuesError:
            message = f"more than {MAX_VALUES} values once aliases are written out; aliases of aliases multiply"
            self.source.complain_at(Position(self.source.path), message)

    def _compose(self) -> Node | None:
        try:
            node: Node | None = self.yaml.compose(self.text.text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            start = error.context_mark and self.text.position(error.context_mark.index).line
            self._complain_of_yaml(mark.index if mark else 0, str(error.problem), start)
        except ReaderError as error:
            self._complain_of_yaml(error.position, f"the character U+{error.character:04X} is not allowed")
        except RecursionError:
            self.source.complain_at(Position(self.source.path), f"nested deeper than {MAX_DEPTH} levels")
        except (YAMLError, ValueError, OverflowError) as error:
            problem = str(error) if not self.source.is_secret and not self.text.patches else "this can't be read"
            self.source.complain_at(Position(self.source.path), f"broken YAML: {problem}")
        else:
            if node is None:
                self._nothing()
            return node
        return None

    def _nothing(self) -> None:
        if self.source.is_secret:
            self.source.data = {}
        else:
            message = "the file is empty; keys such as labels: and providers: are expected"
            self.source.complain_at(Position(self.source.path, 1, 1), message)

    def _complain_of_yaml(self, index: int, problem: str, start: int | None = None) -> None:
        may_quote = not self.source.is_secret and not self.text.patches
        message = yaml_trouble(problem, start=start, may_quote=may_quote)
        self.source.complain_at(self.text.position(index), message)

    def _complain(self, node: Node, message: str) -> None:
        self.source.complain_at(self.text.position(node.start_mark.index), message)

    # -- nodes ------------------------------------------------------------------------------------------------------

    def _value(self, node: Node, place: Place) -> Any:
        self._note(node, place)
        if isinstance(node, ScalarNode):
            return self._scalar(node, place)
        if len(place) > MAX_DEPTH:
            return self._give_up(node, place, f"nested deeper than {MAX_DEPTH} levels")
        assert isinstance(node, CollectionNode)  # noqa: S101
        return self._mapping(node, place) if isinstance(node, MappingNode) else self._sequence(node, place)

    def _note(self, node: Node, place: Place) -> None:
        """Record the position of *node*, the value of *place*, and whether variables are part of its text."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise _TooManyValuesError
        self.source.values[place] = self.text.position(node.start_mark.index)
        self.source.hidden.discard(place)
        self.source.unresolved.discard(place)
        if self.source.is_secret:
            self.source.hidden.add(place)
        self._note_patches(node, place, self.source.hidden)

    def _note_patches(self, node: Node, place: Place, hidden: set[Place]) -> None:
        """Add *place* to *hidden* if variables are part of its text, and report problems of these variables."""
        patches = self.text.patches_in(node.start_mark.index, node.end_mark.index)
        if patches:
            hidden.add(place)
        for patch in patches if isinstance(node, ScalarNode) else ():
            if patch.problem is not None:
                self.source.complain_at(self.text.position(patch.start), patch.problem)
                self.source.unresolved.add(place)

    def _give_up(self, node: Node, place: Place, message: str) -> None:
        """Report *node*, from which the value of *place* can't be determined."""
        self._complain(node, message)
        self.source.unresolved.add(place)

    def _scalar(self, node: ScalarNode, place: Place) -> Any:
        if str(node.tag) not in _SCALAR_TAGS:
            return self._give_up(node, place, _NO_TAGS)
        if node.style not in _BLOCKS and place not in self.source.hidden and (hint := not_replaced(node.value)):
            self.source.warn(place, hint)
        if str(node.tag) == f"{_CORE}int" and _OCTAL(node.value):
            decimal = self.yaml.constructor.construct_document(node)
            message = "a number that begins with 0 is read as octal; leave the 0 out"
            self.source.warn(place, message, remedy=Remedy("set", place, decimal))
        try:
            return self.yaml.constructor.construct_document(node)  # which keeps nothing of the node
        except (ConstructorError, ValueError):
            kind = str(node.tag).removeprefix(_CORE)
            return self._give_up(
                node, place, f"looks like a YAML {kind}, but is invalid; put it in quotes if it is text"
            )

    def _sequence(self, node: CollectionNode, place: Place) -> list[Any] | None:
        if not self._may_enter(node, place):
            return None
        self.within.append(node)
        result = [self._value(item, (*place, index)) for index, item in enumerate(node.value)]
        self._note_items(node, place)
        self.within.pop()
        return result

    def _mapping(self, node: MappingNode, place: Place) -> dict[str, Any] | None:
        if not self._may_enter(node, place):
            return None
        self.within.append(node)
        result: dict[str, Any] = {}
        for value_node in self._merged(node):
            result |= self._mapping(value_node, place) or {}
        result |= self._own(node, place)
        self.within.pop()
        return result

    def _may_enter(self, node: Node, place: Place) -> bool:
        if any(node is outer for outer in self.within):
            self._give_up(node, place, "this value contains itself, through an alias")
        elif str(node.tag) not in _COLLECTION_TAGS:
            self._give_up(node, place, _NO_TAGS)
        return place not in self.source.unresolved

    def _merged(self, node: MappingNode) -> Iterator[MappingNode]:
        """Yield the mappings of ``<<``, weakest first. PyYAML: the first in a list wins, the last of several ``<<``."""
        for value in (value for key, value in node.value if str(key.tag) == _MERGE_TAG):
            for item in reversed(value.value) if isinstance(value, SequenceNode) else [value]:
                if isinstance(item, MappingNode):
                    yield item
                else:
                    self._complain(item, "<< needs a mapping, or a list of mappings")

    def _own(self, node: MappingNode, place: Place) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if str(key_node.tag) == _MERGE_TAG:
                continue
            key = key_node.value if str(key_node.tag) == f"{_CORE}str" else None
            if not isinstance(key, str):
                self._complain(key_node, "a key has to be text; put it in quotes")
                continue
            here = (*place, key)
            if key in result:
                self._complain(key_node, self._twice(here))
            result[key] = self._value(value_node, here)
            self.source.keys[here] = self.text.position(key_node.start_mark.index)
            if value_node.start_mark.index == value_node.end_mark.index:  # an empty value: its mark may be lines below
                self.source.values[here] = self.source.keys[here]
            self._note_patches(key_node, here, self.source.hidden_keys)
            if self.source.spans is not None:
                self.source.spans[here] = span_of(self.text, value_node, node, key_node)
        return result

    # -- spans ------------------------------------------------------------------------------------------------------

    def _note_items(self, node: CollectionNode, place: Place) -> None:
        for index, item in enumerate(node.value if self.source.spans is not None else ()):
            if node.start_mark.index <= item.start_mark.index < node.end_mark.index:  # else an alias
                assert self.source.spans is not None  # noqa: S101
                self.source.spans[*place, index] = span_of(self.text, item, node)

    def _twice(self, place: Place) -> str:
        is_hidden = self.source.is_secret or place in self.source.hidden_keys
        shown = "this key" if is_hidden else repr(place[-1])
        return f"{shown} is given twice; it was given in {self.source.keys[place].in_words} already"


_BLOCKS = ("|", ">")
"""Styles of texts of several lines, such as scripts, which have their own variables."""


class _TooManyValuesError(Exception):
    """The expanded aliases exceed `MAX_VALUES`."""
