"""Messages about errors in a configuration: the value found, the allowed values, and what to write instead.

Each function makes one message for a reader who knows neither pydantic nor a YAML grammar. The caller says whether a
value is hidden; a hidden value is never shown.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterable
from typing import Any, Final

SHOWN_LENGTH: Final = 60
"""The most characters of a value that are shown."""
LISTED_NAMES: Final = 30
"""The most allowed names that are listed."""

_EXPECTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys and values",
    "model_type": "a mapping of keys and values",
    "model_attributes_type": "a mapping of keys and values",
    "path_type": "a path",
    "date_type": "a date, as in 2027-03-31,",
    "date_from_datetime_parsing": "a date, as in 2027-03-31,",
    "date_from_datetime_inexact": "a date, as in 2027-03-31,",
    "none_required": "nothing",
}
_BOUNDS: Final = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_YAML_TROUBLES: Final = (
    (r"character '\\t'", "a tab is not allowed here; indent with spaces"),
    (
        r"mapping values are not allowed",
        "no colon is expected here; put text that has one in quotes, or indent as above",
    ),
    (r"sequence entries are not allowed", "a list item is not expected here; begin '- ' on a separate line"),
    (r"expected <block end>", "this is not aligned with its mapping or list{start}; correct the indentation"),
    (r"expected ',' or '(.)'", "a comma or the closing '{0}'{start} is missing before this"),
    (r"unexpected end of stream", "the closing quote is missing{start}"),
    (r"could not find expected ':'", "the line before has no colon that makes it a key"),
    (r"undefined alias '(.*)'", "there is no anchor &{0} above this alias *{0}"),
    (r"character '(.)' that cannot start", "a value can't begin with '{0}'; put it in quotes"),
    (r"another document", "a second document begins here; leave out the '---'"),
    (r"unknown escape character", "a backslash in double quotes begins an escape; use single quotes, or double it"),
    (r"expected the node content", "a value is expected here"),
)


def yaml_trouble(problem: str, *, start: int | None, may_quote: bool) -> str:
    """Return a message for a YAML parser's *problem*; *start* is the line where the broken part starts, if known."""
    since = f" (started in line {start})" if start is not None else ""
    for pattern, words in _YAML_TROUBLES:
        if (match := re.search(pattern, problem)) is not None:
            quoted = match.groups() if may_quote else ("...",) * len(match.groups())
            return "broken YAML: " + words.format(*quoted, start=since)
    shown = problem if may_quote else re.sub(r"'[^']*'|\"[^\"]*\"", "...", problem)
    return f"broken YAML: {shown}"


def kind(value: object) -> str:
    """Return a description of *value*, such as "a list", for use after "found"."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case str():
            return f"text {_cut(repr(value))}"
        case _:
            return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "..."


def explain(complaint: Any, key: str | None, *, is_hidden: bool) -> str:
    """Return a message for a model's *complaint* about the value of *key*, or about a mapping as a whole."""
    name, context, value = complaint["type"], complaint.get("ctx", {}), complaint["input"]
    if name not in _EXPECTED and isinstance(value, dict):
        key = None  # an error about several keys of a model; its text names them
    found = "something else" if is_hidden else kind(value)
    if name in _EXPECTED:
        text = f"{_EXPECTED[name]} is expected, found {found}{'' if is_hidden else _hint(name, value)}"
    elif name in _BOUNDS:
        words, limit = _BOUNDS[name]
        text = f"must be {words} {context[limit]:g}" + ("" if is_hidden else f", found {found}")
    elif name == "literal_error":
        allowed = str(context["expected"]).replace("'", "")
        text = f"must be {allowed}" + ("" if is_hidden else f", found {found}")
    elif name in ("string_too_short", "too_short") and context["min_length"] == 1:
        text = "must not be empty"
    elif name == "string_pattern_mismatch":
        text = f"must match {context['pattern']}" + ("" if is_hidden else f", found {found}")
    elif name == "multiple_of":
        text = f"must be a multiple of {context['multiple_of']:g}" + ("" if is_hidden else f", found {found}")
    elif is_hidden:
        text = "not allowed here; the value is not shown"
    else:
        text = complaint["msg"].removeprefix("Value error, ")
    return text if key is None else f"{key}: {text}"


def _hint(name: str, value: object) -> str:
    """Return what to write instead, if that can be guessed."""
    wanted = _EXPECTED[name]
    if value is None:
        return "; give a value, or leave the key out"
    if wanted == "text" and isinstance(value, (bool, int, float, dt.date)):
        return "; put it in quotes"
    if wanted.endswith("number") and isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", value):
        return f"; write {value.strip()} without quotes"
    if isinstance(value, float) and value.is_integer() and wanted == "a whole number":
        return f"; write {int(value)}"
    if wanted == "true or false" and str(value).lower() in ("yes", "no", "on", "off", "true", "false"):
        return "; write it without quotes"
    if wanted == "a list" and isinstance(value, (str, int)) and not isinstance(value, bool):
        return f"; write [{_cut(str(value))}]"
    if wanted == "a list" and isinstance(value, dict):
        return "; begin each item with '- '"
    return ""


def close_to(name: str, known: Iterable[str]) -> str | None:
    """Return the name in *known* that *name* probably misspells."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def _meant(name: str, known: Iterable[str]) -> str:
    meant = close_to(name, known)
    return f"; did you mean {meant!r}?" if meant is not None else ";"


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    rest = len(ordered) - LISTED_NAMES
    return ", ".join(ordered[:LISTED_NAMES]) + (f" and {rest} more" if rest > 0 else "") or "none"


def unknown_key(key: str, allowed: Iterable[str], *, home: str | None, is_hidden: bool) -> str:
    """Return the message that *key* is not in *allowed*; *home*: where such a key is allowed, if close by."""
    options = list(allowed)
    if is_hidden:
        return f"unknown key; allowed: {_listed(options)}"
    if home is not None:
        return f"{key!r} is not allowed here, but {home}; allowed here: {_listed(options)}"
    return f"unknown key {key!r}{_meant(key, options)} allowed: {_listed(options)}"


def undefined(what: str, name: str, home: str, known: Iterable[str], *, is_hidden: bool) -> str:
    """Return the message that nothing in *home* has the name *name*."""
    options = list(known)
    if is_hidden:
        return f"no {what} of this name in {home}; defined there: {_listed(options)}"
    return f"no {what} {name!r} in {home}{_meant(name, options)} defined there: {_listed(options)}"
