"""The options in a JSON Schema as a readable list: key, kind of value, default, meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Schema = Mapping[str, Any]

MAX_DEPTH: Final = 6
"""The most levels of nested mappings that are listed."""
_WORDS: Final = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "array": "list",
    "null": "nothing",
}


@dataclass(frozen=True, slots=True)
class Option:
    """A key of a configuration, as a row of the list."""

    key: str
    """The key with its outer keys, as in ``disks[].size``."""
    kind: str
    """The kind of the key's value, as text."""
    default: str
    """The default as YAML; ``required`` if the key is required; empty if the schema gives no default."""
    meaning: str


def options_in(schema: Schema) -> list[Option]:
    """Return the options in *schema*; the options of a nested mapping follow its key."""
    return list(_options(schema, schema.get("$defs", {}), "", 0))


def _options(schema: Schema, defs: Schema, before: str, depth: int) -> Iterator[Option]:
    required = schema.get("required", ())
    for key, given in schema.get("properties", {}).items():
        option = _resolved(given, defs)
        default = "required" if key in required else _written(option["default"]) if "default" in option else ""
        yield Option(
            before + key, _in_words(option, defs), default, " ".join(str(option.get("description", "")).split())
        )
        suffix, inner = _inner(option, defs)
        if inner is not None and depth < MAX_DEPTH:
            yield from _options(inner, defs, f"{before}{key}{suffix}.", depth + 1)


def _resolved(option: Any, defs: Schema) -> Schema:
    """Return *option* with its reference resolved; its own keys take precedence."""
    if not isinstance(option, Mapping):
        return {}
    name = str(option.get("$ref", "")).rpartition("/")[2]
    return {**defs.get(name, {}), **{key: value for key, value in option.items() if key != "$ref"}}


def _inner(option: Schema, defs: Schema) -> tuple[str, Schema | None]:
    """Return the schema of the mapping that *option* is, may be, or has as items, if it lists keys."""
    for each in (option, *option.get("anyOf", ()), *option.get("oneOf", ())):
        resolved = _resolved(each, defs)
        if resolved.get("properties"):
            return "", resolved
        items = _resolved(resolved.get("items"), defs)
        if items.get("properties"):
            return "[]", items
    return "", None


def _in_words(option: Schema, defs: Schema) -> str:
    if "const" in option or "enum" in option:
        return _either([_written(value) for value in option.get("enum", [option.get("const")])])
    kinds = [_resolved(each, defs) for each in (*option.get("anyOf", ()), *option.get("oneOf", ()))]
    if isinstance(option.get("type"), list):
        kinds += [{**option, "type": kind} for kind in option["type"]]
    if kinds:
        some = [_in_words(kind, defs) for kind in kinds if kind.get("type") != "null"]
        return _either(list(dict.fromkeys(some)))
    word = _WORDS.get(str(option.get("type")), "anything")
    items = _resolved(option.get("items"), defs)
    return (
        f"list of {_in_words(items, defs)}s" if word == "list" and items.get("type") in ("string", "integer") else word
    )


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
