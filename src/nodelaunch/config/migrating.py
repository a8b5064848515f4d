"""Converts a Nodepool configuration to an equivalent one for nodelaunch, by edits to the file's text.

Keys without a meaning here are commented out in place; the rest stays unchanged, comments too. The edited text is
checked before it is returned. The module that finds a problem also gives its `Remedy`; this module only applies it.
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
UNKNOWN: Final = "correct the key if it is misspelt; Nodepool ignores it too"
NOTHING: Final = "the meaning does not change"
LEFT_OUT: Final = "# left out by 'nodelaunch config migrate': "
ORPHANED: Final = "only providers that were left out offer this label; leave the label to Nodepool's launcher too"
_DASH = re.compile(r"-(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]*\Z")
"""The dash before an item, with the space and comments between the two."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """The result of a migration."""

    text: str
    left_out: tuple[ConfigProblem, ...]
    """The keys that could not be converted, at their positions in the old text."""
    changed: tuple[ConfigProblem, ...]
    """The keys that are written differently."""
    warnings: tuple[ConfigProblem, ...]
    """The warnings about the new text, at their positions there."""


def migrate(
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    drivers: Registry,
    environ: Mapping[str, str] | None = None,
    new_name: str = "",
) -> Migrated:
    """Return the configuration in *path*, converted for nodelaunch; *secure* is read, and not changed.

    *new_name*: the name of the new file, for warnings.

    Raises: ConfigError with the problems that only the author can correct.
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
    """Return *problem* with advice on the key that is left out."""
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
    """Return the problem that the text could not be edited."""
    reason = f" ({outcome.problems[0].message})" if outcome.problems else ""
    return ConfigProblem(
        os.fspath(path), 0, 0,
        "a key that has to be left out or changed has an anchor that is used elsewhere, or spans lines in a way that"
        f" can't be edited{reason}; replace the aliases by their values, and try again",
    )  # fmt: skip


# -- what the remedies come to --------------------------------------------------------------------------------------


def _for_orphans(source: Source, data: Any, remedies: Iterable[Remedy]) -> Iterator[tuple[ConfigProblem, Remedy]]:
    """Yield remedies that leave out labels which only left-out providers offer."""
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
    """Return a copy of *data* with all *remedies* applied."""
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
    """Return the value at *place*; None: there is none."""
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
    """Applies remedies to the text of one source."""

    def __init__(self, source: Source) -> None:
        self._text = source.text
        self._spans = source.spans or {}
        self._siblings: dict[int, list[Span]] = {}
        for span in sorted(set(self._spans.values()), key=_begin):
            self._siblings.setdefault(span.within, []).append(span)

    def edited(self, remedies: Iterable[tuple[str, Remedy]]) -> str:
        """Return the text with all *remedies* applied, each with its reason."""
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
        """Return the text with *edits*; overlapping edits, which are always deletions, are merged."""
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
        """Yield the edit that leaves an empty mapping or list."""
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
    """Return a message without the list of allowed names at its end."""
    return re.split(r";? (?:allowed|allowed here|installed): ", " ".join(message.split()))[0]
