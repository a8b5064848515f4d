"""Reads a configuration that a program passes as data, with the same keys, checks and messages as for a file.

A problem has the path of its key, such as ``providers[0].pools[0].max-servers``, in place of line and column.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from nodelaunch.config.file import Registry, examine
from nodelaunch.config.models import Config, Place
from nodelaunch.config.positions import MAX_DEPTH, Source
from nodelaunch.config.variables import Position
from nodelaunch.errors import ConfigError, ConfigProblem

WHOLE: Final = "the configuration"
"""The path in problems that concern no single key."""


def read_given(given: Mapping[str, Any] | Config, *, drivers: Registry) -> tuple[Config, tuple[ConfigProblem, ...]]:
    """Return the checked configuration, and warnings.

    *given* has the keys of a file; lists may be tuples, and paths, secrets and models may be objects. Variables in its
    texts are not replaced, and *given* is not changed. A `Config` is checked, and returned unchanged.
    Raises: ConfigError with every problem.
    """
    source = GivenSource()
    data = _PlainReader(source).plain(given, ())
    source.data = data if isinstance(data, dict) else None
    if source.data is None and not source.problems:
        source.complain((), "a mapping with keys such as labels and providers is expected")
    config = examine(source, drivers)
    if config is None:
        raise ConfigError(tuple(dict.fromkeys(source.problems)))
    return given if isinstance(given, Config) else config, tuple(dict.fromkeys(source.warnings))


class GivenSource(Source):
    """Data that is not from a file."""

    def __init__(self) -> None:
        super().__init__(path="", values={(): Position(WHOLE)})

    def complain_at(self, position: Position, message: str) -> None:
        self.problems.append(_problem(position, message))
        self.troubled.add(position)

    def warn_at(self, position: Position, message: str) -> None:
        self.warnings.append(_problem(position, message))

    def is_elsewhere(self, place: Place) -> bool:  # noqa: ARG002  there is nothing but this
        return False


def _problem(position: Position, message: str) -> ConfigProblem:
    """Return a problem; if the message begins with the key, don't repeat the key."""
    key = position.file
    return ConfigProblem("", 0, 0, message.removeprefix(f"{key.rpartition('.')[2]}: "), key)


def path_of(place: Place) -> str:
    """Return the path of a key as text."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or WHOLE


class _PlainReader:
    """Makes plain data, as from YAML, and records all places."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def plain(self, value: Any, place: Place) -> Any:
        self._source.values[place] = Position(path_of(place))
        if isinstance(value, BaseModel):
            value = value.model_dump(by_alias=True, exclude_unset=True)
        if isinstance(value, (str, int, float, SecretStr)) or value is None:
            return value
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if len(place) > MAX_DEPTH:
            return self._refuse(place, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return self._mapping(value, place)
        if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            return [self.plain(item, (*place, index)) for index, item in enumerate(value)]
        return self._refuse(place, f"a value of a configuration can't be a {type(value).__name__}")

    def _mapping(self, value: Mapping[Any, Any], place: Place) -> dict[str, Any]:
        made = {}
        for key, inner in value.items():
            if isinstance(key, str):
                made[key] = self.plain(inner, (*place, key))
            else:
                self._source.complain(place, f"a key has to be text, found {key!r}")
        return made

    def _refuse(self, place: Place, message: str) -> None:
        self._source.complain(place, message)
        self._source.unresolved.add(place)
