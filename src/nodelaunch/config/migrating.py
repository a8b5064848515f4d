"""Rewrites a configuration of Nodepool's so that it means here what it means there: the file's text, edited in places.

What has no meaning here is commented out where it stands; everything else stays as it was, comments too. That the
edited text says what it should is checked before anybody gets it. What does *not* belong here: what is wrong with a
configuration, and what to do about it; whoever complains of something says so (`Remedy`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from nodelaunch.config.file import Registry, examine, take_over
from nodelaunch.config.models import Place
from nodelaunch.config.positions import Source, read_source, read_text
from nodelaunch.config.rules import find
from nodelaunch.config.spans import Remedy, Span
from nodelaunch.errors import ConfigError, ConfigProblem

FOREIGN: Final = "leave this provider to Nodepool's launcher, or install a driver of this name"
UNKNOWN: Final = "correct it if it is misspelt; Nodepool ignores it, too"
NOTHING: Final = "nothing is lost by that"
LEFT_OUT: Final = "# left out by 'nodelaunch config migrate': "
ORPHANED: Final = "only providers that were left out offer this label; leave it to Nodepool's launcher, too"
_DASH = re.compile(r"-(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]*\Z")
"""The dash before an item, and what may be between the two."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """The outcome."""

    text: str
    left_out: tuple[ConfigProblem, ...]
    """What could not be carried over, where it stood."""
    changed: tuple[ConfigProblem, ...]
    """What is written in another way."""
    warnings: tuple[ConfigProblem, ...]
    """What the new text is still warned of, at its places there."""


def migrate(
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    drivers: Registry,
    environ: Mapping[str, str] | None = None,
    new_name: str = "",
) -> Migrated:
    """The configuration in *path*, as one for nodelaunch; *secure* is looked at, and stays as it is.

    *new_name*: of the file that the text is for; it stands in warnings.

    Raises: ConfigError with what nobody but its author can put right.
    """
    variables = os.environ if environ is None else environ
    source = read_source(os.fspath(path), variables, with_spans=True)
    untouched = read_text(os.fspath(path), source.text, variables).data if source.data is not None else None
    take_over(source, secure, variables)
    examine(source, drivers)
    remedies = list(dict.fromkeys(source.remedies))
    remedies += _for_orphans(source, untouched, [remedy for _, remedy in remedies])
    mended = {problem for problem, _ in remedies}
    if rest := [problem for problem in source.problems if problem not in mended]:
        raise ConfigError(_sorted(rest))
    text = _Editor(source).edited([(problem.message, remedy) for problem, remedy in remedies])
    outcome = read_text(new_name or os.fspath(path), text, variables)
    if remedies and outcome.data != _remedied(untouched, [remedy for _, remedy in remedies]):
        raise ConfigError([_beyond_us(outcome, path)])
    take_over(outcome, secure, variables)
    examine(outcome, drivers)
    if outcome.problems:
        raise ConfigError(_sorted(outcome.problems))
    return Migrated(
        text,
        left_out=_sorted(
            _with_advice(problem, remedy, untouched) for problem, remedy in remedies if remedy.action == "drop"
        ),
        changed=_sorted(problem for problem, remedy in remedies if remedy.action != "drop"),
        warnings=_sorted(outcome.warnings),
    )


def _with_advice(problem: ConfigProblem, remedy: Remedy, data: Any) -> ConfigProblem:
    """*problem*, and what its author can do about what is left out."""
    if _at(data, remedy.place) is None:
        advice = NOTHING
    elif remedy.place[0] == "labels" and len(remedy.place) == 2:
        return problem
    else:
        advice = FOREIGN if remedy.place[0] == "providers" and len(remedy.place) == 2 else UNKNOWN
    return replace(problem, message=f"{_short(problem.message)}; {advice}")


def _sorted(problems: Iterable[ConfigProblem]) -> tuple[ConfigProblem, ...]:
    return tuple(sorted(set(problems), key=lambda one: (one.file, one.line, one.column, one.message)))


def _beyond_us(outcome: Source, path: str | os.PathLike[str]) -> ConfigProblem:
    """Why the text could not be edited."""
    reason = f" ({outcome.problems[0].message})" if outcome.problems else ""
    return ConfigProblem(
        os.fspath(path), 0, 0,
        "an anchor of what has to be left out or changed is used elsewhere, or something there spans lines in a way"
        f" that can't be edited{reason}; write out what the aliases stand for, and try again",
    )  # fmt: skip


# -- what the remedies come to --------------------------------------------------------------------------------------


def _for_orphans(source: Source, data: Any, remedies: Iterable[Remedy]) -> Iterator[tuple[ConfigProblem, Remedy]]:
    """Leave out labels that only the providers that are left out offer."""
    dropped = {remedy.place for remedy in remedies if remedy.action == "drop"}
    gone, kept, mentioned = set[str](), set[str](), set[str]()
    for place, provider in find(data, "providers[]"):
        if place in dropped:
            gone |= set(_offered(provider))
        else:
            kept |= set(_offered(provider))
            mentioned |= set(_texts(provider))
    for place, label in find(data, "labels[]"):
        name = label.get("name") if isinstance(label, dict) else None
        if isinstance(name, str) and name in gone - kept - mentioned:
            yield ConfigProblem(*source.position(place), f"label {name!r}: {ORPHANED}"), Remedy("drop", place)


def _offered(provider: Any) -> Iterator[str]:
    for pattern in ("pools[].labels[]", "pools[].labels[].name", "pools[].nodes[].labels[]"):
        yield from (name for _, name in find(provider, pattern) if isinstance(name, str))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _remedied(data: Any, remedies: Iterable[Remedy]) -> Any:
    """A copy of *data* as it has to be."""
    by_place = {remedy.place: remedy for remedy in remedies if remedy.action != "set"}
    new = {remedy.place: remedy.value for remedy in remedies if remedy.action == "set"}
    return _copied(data, (), by_place, new)


def _copied(value: Any, place: Place, by_place: Mapping[Place, Remedy], new: Mapping[Place, Any]) -> Any:
    if place in new:
        return new[place]
    if isinstance(value, list):
        kept = [index for index in range(len(value)) if (*place, index) not in by_place]
        return [_copied(value[index], (*place, index), by_place, new) for index in kept]
    if not isinstance(value, dict):
        return value
    made = {}
    for key, inner in value.items():
        remedy = by_place.get((*place, key))
        if remedy is None:
            made[key] = _copied(inner, (*place, key), by_place, new)
        elif remedy.action == "rename":
            here = (*place, key)
            made[remedy.value] = _copied(inner, here if here in new else (*place, remedy.value), by_place, new)
    added = {at[-1]: each for at, each in new.items() if at[:-1] == place and at[-1] not in value}
    return {**added, **made}


def _at(data: Any, place: Place) -> Any:
    """What is at *place*; None: nothing."""
    for step in place:
        if isinstance(data, dict):
            data = data.get(step)
        else:
            data = data[step] if isinstance(data, list) and isinstance(step, int) and step < len(data) else None
    return data


# -- editing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


class _Editor:
    """Makes the edits of remedies to the text of one source."""

    def __init__(self, source: Source) -> None:
        self._text = source.text
        self._spans = source.spans or {}
        self._siblings: dict[int, list[Span]] = {}
        for span in sorted(set(self._spans.values()), key=_begin):
            self._siblings.setdefault(span.within, []).append(span)

    def edited(self, remedies: Iterable[tuple[str, Remedy]]) -> str:
        """The text with all of *remedies*, each with its reason."""
        drops: dict[Span, str] = {}
        edits: list[_Edit] = []
        for reason, remedy in remedies:
            span = self._spans.get(remedy.place)
            if remedy.action == "set":
                edits += self._set(remedy.place, span, remedy.value)
            elif span is not None and remedy.action == "rename" and span.key is not None:
                edits.append(_Edit(*span.key, str(remedy.value)))
            elif span is not None:
                drops.setdefault(span, reason)
        outer = {span: reason for span, reason in drops.items() if not any(_is_within(span, other) for other in drops)}
        for within in {span.within for span in outer}:
            edits += self._dropped([span for span in self._siblings[within] if span in outer], outer)
        text = self._applied(edit for edit in dict.fromkeys(edits) if not self._is_in_drop(edit, outer))
        is_of_windows = self._text.count("\n") == self._text.count("\r\n") > 0
        return text.replace("\r\n", "\n").replace("\n", "\r\n") if is_of_windows else text

    def _is_in_drop(self, edit: _Edit, drops: Iterable[Span]) -> bool:
        return "\n" not in edit.text and any(
            _begin(span) <= edit.start < edit.end <= span.end and not _is_own(edit, span) for span in drops
        )

    def _applied(self, edits: Iterable[_Edit]) -> str:
        """What overlaps is taken together: only what is deleted does."""
        done, taken = [], 0
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
            if edit.end <= taken and edit.start < taken:
                continue
            done += [self._text[taken : max(edit.start, taken)], edit.text]
            taken = max(edit.end, taken)
        return "".join((*done, self._text[taken:]))

    # -- setting ----------------------------------------------------------------------------------------------------

    def _set(self, place: Place, span: Span | None, value: Any) -> Iterator[_Edit]:
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        if span is not None:
            yield _Edit(span.start, span.end, shown)
            return
        inner = [each for at, each in self._spans.items() if at[:-1] == place[:-1] and each.key is not None]
        if not inner:
            return
        first = min(inner, key=_begin)
        if first.in_flow:
            yield _Edit(first.end, first.end, f", {place[-1]}: {shown}")
            return
        at = self._line_end(first.end)
        column = _begin(first) - self._line_start(_begin(first))
        yield _Edit(at, at, f"\n{' ' * column}{place[-1]}: {shown}")

    # -- leaving out ------------------------------------------------------------------------------------------------

    def _dropped(self, spans: list[Span], reasons: Mapping[Span, str]) -> Iterator[_Edit]:
        """Leave out *spans*, which are parts of one mapping or list."""
        everything = self._siblings[spans[0].within]
        kept = [span for span in everything if span not in spans]
        if spans[0].in_flow:
            yield from self._cut(spans, everything, kept)
            return
        first = everything[0]
        for span in spans:
            yield from self._commented(span, reasons[span], is_first_key=span is first and span.key is not None)
        if first in spans and first.key is not None and kept:
            yield from self._moved_dash(first, kept[0])
        if not kept:
            yield from self._emptied(spans[0])

    def _cut(self, spans: list[Span], everything: list[Span], kept: list[Span]) -> Iterator[_Edit]:
        for span in spans:
            number = everything.index(span)
            before = [each for each in kept if each.end <= _begin(span)]
            if number + 1 < len(everything):
                yield _Edit(_begin(span), _begin(everything[number + 1]), "")
            elif before:
                yield _Edit(before[-1].end, span.end, "")
            else:
                yield _Edit(_begin(span), span.end, "")

    def _commented(self, span: Span, reason: str, *, is_first_key: bool) -> Iterator[_Edit]:
        begin = _begin(span)
        if span.key is None and (dash := _DASH.search(self._text, 0, begin)) is not None:
            begin = dash.start()
        start, end = self._line_start(begin), self._line_end(span.end)
        lines = self._text[start:end].split("\n")
        column = begin - start
        if is_first_key and self._text[start:begin].strip():  # behind a dash, which goes to the next key
            column = len(lines[0]) - len(lines[0].lstrip())
            lines[0] = " " * column + self._text[begin : start + len(lines[0])]
        indent = " " * column
        said = [f"{indent}{LEFT_OUT}{_short(reason)}"]
        for line in lines:
            is_deep = line[:column].isspace() or column == 0
            said.append(f"{indent}# {line[column:] if is_deep else line.lstrip()}".rstrip())
        yield _Edit(start, end, "\n".join(said))

    def _moved_dash(self, first: Span, heir: Span) -> Iterator[_Edit]:
        start = self._line_start(_begin(first))
        before = self._text[start : _begin(first)]
        if before.strip():
            line = self._line_start(_begin(heir))
            yield _Edit(line, _begin(heir), before)

    def _emptied(self, span: Span) -> Iterator[_Edit]:
        """Say that nothing is left of a mapping or list."""
        for outer in self._spans.values():
            if outer.start == span.within and outer.key is not None:
                colon = self._text.index(":", outer.key[1]) + 1
                yield _Edit(colon, colon, " {}" if span.key is not None else " []")
                return

    def _line_start(self, index: int) -> int:
        return self._text.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        end = self._text.find("\n", index)
        return len(self._text) if end < 0 else end


def _begin(span: Span) -> int:
    return span.start if span.key is None else span.key[0]


def _is_within(span: Span, other: Span) -> bool:
    return span != other and _begin(other) <= _begin(span) and span.end <= other.end


def _is_own(edit: _Edit, span: Span) -> bool:
    return edit.text == "" and edit.start <= _begin(span)


def _short(message: str) -> str:
    """A complaint without the list of what is allowed, with which it ends."""
    return re.split(r";? (?:allowed|allowed here|installed): ", " ".join(message.split()))[0]
