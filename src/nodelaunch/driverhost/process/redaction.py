"""Redacts a driver's secrets in logs and in the texts of errors.

Secrets are the values of options whose schema says so (config/secrets.py), and the values of the variables in
``pass-environment``. A driver must not reveal them (rule D10); this module is for drivers that do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from nodelaunch.config.models import ProviderConfig
from nodelaunch.config.schema import schema_of
from nodelaunch.config.secrets import secret_texts

STAND_IN: Final = "***"
MIN_LENGTH: Final = 6
"""Characters of the shortest secret: a shorter value may occur in any text by chance."""
MAX_SECRETS: Final = 200
"""Most secrets that are redacted; the longest ones are chosen."""
MAX_PARTS: Final = 1000
"""Most parts of one structured entry; later parts are replaced."""


class Redactor:
    """Replaces *secrets* in texts, also in their JSON and URL forms, and single lines of multi-line secrets."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= MIN_LENGTH}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))[:MAX_SECRETS]
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(STAND_IN, text)

    def entry(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return *fields* with secrets replaced in all keys and texts."""
        if self._pattern is None:
            return dict(fields)
        left = [MAX_PARTS]
        return {self(key): self._part(value, left) for key, value in fields.items()}

    def _part(self, value: Any, left: list[int]) -> Any:
        left[0] -= 1
        if left[0] < 0:
            return STAND_IN
        match value:
            case str():
                return self(value)
            case dict():
                return {self(str(key)): self._part(each, left) for key, each in value.items()}
            case list() | tuple():
                return [self._part(each, left) for each in value]
            case _:
                return value


ALLOWED_TENANTS: Final = "allowed-tenants"


def content_of(config: ProviderConfig) -> dict[str, Any]:
    """Return *config* as the driver's process gets it, with its secrets.

    The tenants that may use pools and labels are removed: a driver may refuse options that it does not know.
    """
    plain = _revealed(config.model_dump(by_alias=True, exclude_unset=True))
    content: dict[str, Any] = to_jsonable_python(plain)
    for pool in content.get("pools", ()):
        for each in (pool, *pool.get("labels", ())):
            if isinstance(each, dict):
                each.pop(ALLOWED_TENANTS, None)
    return content


def _revealed(value: Any) -> Any:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case dict():
            return {key: _revealed(each) for key, each in value.items()}
        case list() | tuple():
            return [_revealed(each) for each in value]
        case _:
            return value


NOTHING: Final = Redactor()


def redactor_of(config: ProviderConfig) -> Redactor:
    """Return the redactor for texts of this provider's driver."""
    passed = (os.environ.get(name, "") for name in config.pass_environment)
    return Redactor((*passed, *secret_texts(schema_of(type(config)), content_of(config))))


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield json.dumps(secret)[1:-1]
    yield quote(secret, safe="")
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line.strip() for line in lines)
