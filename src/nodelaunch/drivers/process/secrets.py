"""Which texts of a configuration are secret: those whose schema says ``writeOnly: true`` or ``format: password``.

What does *not* belong here: what is done to keep them so (redaction.py, the conformance checks).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

DEPTH: Final = 60
"""Of references and alternatives that are followed without going further into the value."""
ALTERNATIVES: Final = ("anyOf", "oneOf", "allOf")


def is_secret(schema: Mapping[str, Any]) -> bool:
    """Whether *schema* itself, and no part of it, says so."""
    return schema.get("writeOnly") is True or schema.get("format") == "password"


def secret_texts(schema: Mapping[str, Any], value: Any) -> Iterator[str]:
    """Those in *value*, which *schema* describes, however deep they are; its references are to its own ``$defs``."""
    yield from _within(schema, value, schema.get("$defs") or {}, DEPTH)


def _within(schema: Any, value: Any, defs: Mapping[str, Any], depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping) or depth == 0:
        return
    if is_secret(schema):
        yield from _texts(value)
        return
    if isinstance(reference := schema.get("$ref"), str):
        yield from _within(defs.get(reference.rpartition("/")[2]), value, defs, depth - 1)
    for word in ALTERNATIVES:
        for each in schema.get(word) or ():
            yield from _within(each, value, defs, depth - 1)
    if isinstance(value, Mapping):
        properties = schema.get("properties") or {}
        for key, inner in value.items():
            yield from _within(properties.get(key, schema.get("additionalProperties")), inner, defs, DEPTH)
    elif isinstance(value, (list, tuple)):
        first = schema.get("prefixItems") or ()
        for index, inner in enumerate(value):
            yield from _within(first[index] if index < len(first) else schema.get("items"), inner, defs, DEPTH)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from _texts(each)
        case list() | tuple():
            for each in value:
                yield from _texts(each)


def has_secret(schema: Any, defs: Mapping[str, Any]) -> bool:
    """Whether anything in *schema*, in whatever place, says so."""
    waiting, followed = [schema], set[str]()
    while waiting:
        match waiting.pop():
            case list() | tuple() as several:
                waiting += several
            case Mapping() as part:
                if is_secret(part):
                    return True
                waiting += (value for key, value in part.items() if key != "$defs")
                reference = part.get("$ref")
                name = reference.rpartition("/")[2] if isinstance(reference, str) else ""
                if name in defs and name not in followed:
                    followed.add(name)
                    waiting.append(defs[name])
    return False
