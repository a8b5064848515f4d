"""Checks if a value is a JSON Schema (2020-12), by the type of each keyword's value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_DEPTH: Final = 40
_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def faults_of_schema(schema: Any) -> list[str]:
    """Return the faults of *schema*, each with its place; empty if it is a valid schema."""
    found: list[str] = []
    _look(schema, schema, "", found, 0)
    return found


def _look(schema: Any, root: Any, at: str, found: list[str], depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        found.append(f"{at or 'the schema'} is neither an object nor true or false")
        return
    if depth > MAX_DEPTH:
        found.append(f"{at} is nested more than {MAX_DEPTH} schemas deep")
        return
    for keyword, value in schema.items():
        place = f"{at}/{keyword}"
        is_right, wanted = _KEYWORDS.get(keyword, (_anything, ""))
        if not is_right(value):
            found.append(f"{place} has to be {wanted}")
        elif keyword == "$ref" and value.startswith("#") and not _resolves(value, root):
            found.append(f"{place}: there is no {value}")
        elif keyword == "$schema" and value.rstrip("#") != DIALECT:
            found.append(f"{place} is not {DIALECT}")
        else:
            for name, each in _subschemas(keyword, value):
                _look(each, root, f"{place}{name}", found, depth + 1)


def _subschemas(keyword: str, value: Any) -> list[tuple[str, Any]]:
    if keyword in _SCHEMAS_BY_NAME:
        return [(f"/{name}", each) for name, each in value.items()]
    if keyword in _LISTS_OF_SCHEMAS:
        return [(f"/{index}", each) for index, each in enumerate(value)]
    return [("", value)] if keyword in _SCHEMAS else []


def _resolves(reference: str, root: Any) -> bool:
    """Return True if a JSON Pointer within the document has a target; anchors are not checked."""
    if reference == "#" or not reference.startswith("#/"):
        return True
    here = root
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(here, Mapping) or name not in here:
            return False
        here = here[name]
    return True


def _anything(_value: Any) -> bool:
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        re.compile(value)
    except re.error:
        return "(?" in value or "\\p" in value  # may be valid in ECMA-262 only

    return True


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and len(set(value)) == len(value)


def _is_type(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return _are_texts(names) and bool(names) and set(names) <= _TYPES


def _is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_SCHEMAS: Final = (
    "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LISTS_OF_SCHEMAS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS_BY_NAME: Final = ("$defs", "dependentSchemas", "patternProperties", "properties")

_TEXTS: Final = ("$anchor", "$comment", "$id", "$ref", "$schema", "description", "format", "title")
_COUNTS: Final = (
    "maxContains", "maxItems", "maxLength", "maxProperties", "minContains", "minItems", "minLength", "minProperties",
)  # fmt: skip
_KEYWORDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(_SCHEMAS, (_is_a(Mapping, bool), "a schema")),
    **dict.fromkeys(_LISTS_OF_SCHEMAS, (lambda value: isinstance(value, list) and bool(value), "a list of schemas")),
    **dict.fromkeys(_SCHEMAS_BY_NAME, (_is_a(Mapping), "an object of schemas")),
    **dict.fromkeys(_TEXTS, (_is_a(str), "a text")),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (_is_number, "a number")),
    **dict.fromkeys(_COUNTS, (_is_count, "a whole number, 0 or more")),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), (_is_a(bool), "true or false")),
    **dict.fromkeys(("enum", "examples"), (_is_a(list), "a list")),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "pattern": (_is_pattern, "a regular expression"),
    "required": (_are_texts, "a list of texts, none twice"),
    "type": (_is_type, f"one of {', '.join(sorted(_TYPES))}, or a list of them"),
}  # fmt: skip
