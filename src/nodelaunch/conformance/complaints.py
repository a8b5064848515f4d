"""Reports what a model finds wrong in a YAML file, with file, line and column."""

from __future__ import annotations

from typing import Any, NoReturn

from pydantic import ValidationError

from nodelaunch.config.messages import explain, unknown_key
from nodelaunch.config.models import Place
from nodelaunch.config.positions import Source
from nodelaunch.errors import ConfigError


def refuse(source: Source, place: Place, error: ValidationError) -> NoReturn:
    """Raise ConfigError with each complaint of a model about the value at *place*."""
    for complaint in error.errors(include_url=False):
        _complain(source, place, complaint)
    raise ConfigError(source.problems)


def _complain(source: Source, place: Place, complaint: Any) -> None:
    at: Place = (*place, *complaint["loc"])
    if complaint["type"] == "extra_forbidden":
        source.complain(at, unknown_key(str(at[-1]), (), home=None, is_hidden=False).partition(";")[0], of_key=True)
    elif complaint["type"] == "missing":
        source.complain(at[:-1], f"the key {at[-1]!r} is missing")
    else:
        key = next((str(step) for step in reversed(at) if isinstance(step, str)), None)
        source.complain(at, explain(complaint, key, is_hidden=source.is_hidden(at)))
