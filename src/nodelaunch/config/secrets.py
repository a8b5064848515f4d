"""Finds the secrets of a configuration: texts whose schema says ``writeOnly: true`` or ``format: password``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from nodelaunch.config.models import Place

DEPTH: Final = 60
"""The most references and alternatives that are followed at one level of the value."""
ALTERNATIVES: Final = ("anyOf", "oneOf", "allOf")


def is_secret(schema: Mapping[str, Any]) -> bool:
    """Return True if *schema* itself, not a part of it, marks a secret."""
    return schema.get("writeOnly") is True or schema.get("format") == "password"


def secret_texts(schema: Mapping[str, Any], value: Any) -> Iterator[str]:
    """Yield the secrets at any depth in *value*, which *schema* describes; its references are to its own ``$defs``."""
    for place, secret in _within(schema, value, (), schema.get("$defs") or {}, DEPTH):
        yield from (text for _, text in _parts(secret, place) if isinstance(text, str))


def secret_places(schema: Mapping[str, Any], value: Any) -> Iterator[Place]:
    """Yield the places of secrets of any type in *value*, with all places below them."""
    for place, secret in _within(schema, value, (), schema.get("$defs") or {}, DEPTH):
        yield from (at for at, _ in _parts(secret, place))


def _within(schema: Any, value: Any, place: Place, defs: Mapping[str, Any], depth: int) -> Iterator[tuple[Place, Any]]:
    if not isinstance(schema, Mapping) or depth == 0:
        return
    if is_secret(schema):
        yield place, value
        return
    if isinstance(reference := schema.get("$ref"), str):
        yield from _within(defs.get(reference.rpartition("/")[2]), value, place, defs, depth - 1)
    for word in ALTERNATIVES:
        for each in schema.get(word) or ():
            yield from _within(each, value, place, defs, depth - 1)
    if isinstance(value, Mapping):
        properties = schema.get("properties") or {}
        for key, inner in value.items():
            of_key = properties.get(key, schema.get("additionalProperties"))
            yield from _within(of_key, inner, (*place, key), defs, DEPTH)
    elif isinstance(value, (list, tuple)):
        first = schema.get("prefixItems") or ()
        for index, inner in enumerate(value):
            of_item = first[index] if index < len(first) else schema.get("items")
            yield from _within(of_item, inner, (*place, index), defs, DEPTH)


def _parts(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """Yield *value*, the value at *place*, and all values in it."""
    yield place, value
    if isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _parts(inner, (*place, key))


def has_secret(schema: Any, defs: Mapping[str, Any]) -> bool:
    """Return True if *schema* marks a secret in any place."""
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
