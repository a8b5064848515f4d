"""Finds the values that differ between two configurations that were read from files.

Defaults count as values, as they do for a launcher. Items of lists are matched by their names if they have names.
Secrets are compared, and never shown. changes.py has the effects of differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import SecretStr

from nodelaunch.config.file import Loaded
from nodelaunch.config.models import Config, Place
from nodelaunch.config.schema import schema_of
from nodelaunch.config.secrets import secret_places
from nodelaunch.config.variables import Position

NAMES: Final = ("name", "tenant-name")
"""Keys whose values identify the items of a list."""
Steps = tuple[str, ...]
"""A place with the names of items instead of their indexes."""
_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class Value:
    """A value on one side of a difference."""

    value: Any
    """The value as JSON; None for a mapping, a list of mappings, and a hidden value."""
    is_default: bool = False
    """True if the value is a default, not written in the file."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that has changed, or exists on one side only."""

    steps: Steps
    path: str
    """The path, such as ``providers[cloud].pools[main].max-servers``."""
    kind: Literal["added", "removed", "changed"]
    old: Value
    new: Value
    is_hidden: bool
    position: Position | None
    """The position of the new value, or of the value around it; None: neither is written."""


@dataclass(frozen=True, slots=True)
class _Point:
    """The current point of a comparison: the place in both data, and its path."""

    old: Place = ()
    new: Place = ()
    steps: Steps = ()
    path: str = ""

    def at_key(self, key: str, *, is_hidden: bool = False) -> _Point:
        shown = "(hidden)" if is_hidden else key
        path = f"{self.path}.{shown}" if self.path else shown
        return _Point((*self.old, key), (*self.new, key), (*self.steps, key), path)

    def at_item(self, name: str, old: int, new: int, *, shown: str | None = None) -> _Point:
        path = f"{self.path}[{name if shown is None else shown}]"
        return _Point((*self.old, old), (*self.new, new), (*self.steps, name), path)


class _Side:
    """A configuration as plain data, with its hidden places."""

    def __init__(self, loaded: Loaded) -> None:
        config = loaded.config
        self.source = loaded.source
        self.data = config.model_dump(by_alias=True)
        secret = set(secret_places(schema_of(Config), {**self.data, "providers": []}))
        for index, provider in enumerate(config.providers):
            places = secret_places(schema_of(type(provider)), self.data["providers"][index])
            secret.update(("providers", index, *place) for place in places)
        self._secret = {place[:end] for place in secret for end in range(len(place) + 1)}
        """The hidden places, including all values around a secret."""

    def is_hidden(self, place: Place) -> bool:
        """Return True if *place* is secret, or contains a secret."""
        return place in self._secret or self.source.is_hidden(place)

    def is_key_hidden(self, place: Place) -> bool:
        return place in self.source.hidden_keys

    def value(self, place: Place, value: Any, *, is_hidden: bool) -> Value:
        is_default = value is not _NOTHING and place not in self.source.values
        return Value(None if is_hidden else _shown(value), is_default)


def _shown(value: Any) -> Any:
    """Return *value* as shown: None for a mapping and for a missing value."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Sequence):
        return None if any(isinstance(item, Mapping) for item in value) else [_shown(item) for item in value]
    return None if value is _NOTHING or isinstance(value, Mapping) else str(value)


def value_differences(old: Loaded, new: Loaded) -> list[Difference]:
    """Return all differences, in the order of the models. A provider that exists on one side only, or has another
    driver now, is one difference."""
    return list(_Comparison(_Side(old), _Side(new)).mappings(_Point(), old.config, new.config))


class _Comparison:
    def __init__(self, old: _Side, new: _Side) -> None:
        self.old = old
        self.new = new

    def mappings(self, point: _Point, old: Config, new: Config) -> Iterator[Difference]:
        replaced = {
            one.name
            for one in old.providers
            for two in new.providers
            if one.name == two.name and one.driver != two.driver
        }
        for difference in self._mappings(point, self.old.data, self.new.data):
            of_replaced = difference.steps[0] == "providers" and difference.steps[1] in replaced
            if not of_replaced or difference.steps[2] == "driver":
                yield difference

    def _compare(self, point: _Point, old: Any, new: Any) -> Iterator[Difference]:
        if old == new:
            return
        if isinstance(old, Mapping) and isinstance(new, Mapping) and not _is_of_secrets(old, new):
            yield from self._mappings(point, old, new)
        elif (pairs := _paired(old, new)) is not None:
            yield from self._items(point, old, new, pairs)
        else:
            yield self._difference(point, old, new)

    def _mappings(self, point: _Point, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
        for key in dict.fromkeys((*old, *new)):
            here = point.at_key(key)
            if self.old.is_key_hidden(here.old) or self.new.is_key_hidden(here.new):
                here = point.at_key(key, is_hidden=True)
            yield from self._compare(here, old.get(key, _NOTHING), new.get(key, _NOTHING))

    def _items(
        self, point: _Point, old: Any, new: Any, pairs: Mapping[str, tuple[int, int, str]]
    ) -> Iterator[Difference]:
        for name, (before, after, key) in pairs.items():
            here = point.at_item(name, before, after)
            if self.old.is_hidden((*here.old, key)) or self.new.is_hidden((*here.new, key)):
                here = point.at_item(name, before, after, shown=f"#{(after if after >= 0 else before) + 1}")
            one = old[before] if before >= 0 else _NOTHING
            two = new[after] if after >= 0 else _NOTHING
            yield from self._compare(here, one, two)

    def _difference(self, point: _Point, old: Any, new: Any) -> Difference:
        is_hidden = (old is not _NOTHING and self.old.is_hidden(point.old)) or (
            new is not _NOTHING and self.new.is_hidden(point.new)
        )
        kind: Literal["added", "removed", "changed"] = "changed"
        if _NOTHING in (old, new):
            kind = "added" if old is _NOTHING else "removed"
        return Difference(
            steps=point.steps,
            path=point.path,
            kind=kind,
            old=self.old.value(point.old, old, is_hidden=is_hidden),
            new=self.new.value(point.new, new, is_hidden=is_hidden),
            is_hidden=is_hidden,
            position=self._position(point.new),
        )

    def _position(self, place: Place) -> Position | None:
        source = self.new.source
        while place and place not in source.values:
            place = place[:-1]
        return source.position(place, of_key=True) if place else None


def _is_of_secrets(*mappings: Mapping[str, Any]) -> bool:
    """Return True if all values in *mappings* are secrets under free keys, so that the keys may be secret too."""
    values = [value for mapping in mappings for value in mapping.values()]
    return bool(values) and all(isinstance(value, SecretStr) for value in values)


def _paired(old: Any, new: Any) -> Mapping[str, tuple[int, int, str]] | None:
    """Return, for each name of an item in *old* or *new*, its indexes (-1: none) and the key that holds the name.

    None if the items have no unique names.
    """
    for key in NAMES:
        before, after = _numbered(old, key), _numbered(new, key)
        if before is not None and after is not None:
            return {name: (before.get(name, -1), after.get(name, -1), key) for name in (*before, *after)}
    return None


def _numbered(items: Any, key: str) -> dict[str, int] | None:
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, Mapping) for item in items):
        return None
    names = [item.get(key) for item in items]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return None
    return {name: number for number, name in enumerate(names)}
