"""Makes configuration models for drivers that describe their options by JSON Schemas.

A schema becomes a pydantic model, so that a mistake in such an option is found, located and worded like any other. The
model covers these words of JSON Schema 2020-12: ``type``, ``properties``, ``required``, ``additionalProperties``,
``items``, ``enum``, ``const``, ``anyOf``, ``oneOf``, ``$ref`` to ``$defs``, ``minimum``, ``maximum``,
``exclusiveMinimum``, ``exclusiveMaximum``, ``multipleOf``, ``minLength``, ``maxLength``, ``pattern``, ``minItems``,
``maxItems``, ``description``, ``default``. Other words of a schema are shown to editors, and left to the driver, which
checks all options anyway. Drivers written in Python have models, and do not use this module.

The package jsonschema does not fit: its errors have the place of the mapping for an unknown key, it stops at invalid
schemas, and secrets, hints and the schema for editors come from models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, create_model

from nodelaunch.config.models import (
    TOP_LABELS,
    AnyCount,
    LaunchingProviderConfig,
    Model,
    PoolConfig,
    PoolLabel,
    Reference,
    Unique,
)
from nodelaunch.config.secrets import has_secret, is_secret
from nodelaunch.driverhost.wire.messages import Schemas
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits

ModelT = TypeVar("ModelT", bound=Model)
Schema = Mapping[str, Any]
MAX_DEPTH = 12
"""The deepest nesting of schemas that is translated; deeper options are left to the driver."""
TRANSLATED = frozenset({
    "$ref", "$defs", "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf",
    "oneOf", "allOf", "not", "if", "then", "else", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minLength", "maxLength", "pattern", "minItems", "maxItems", "description", "default", "title",
})  # fmt: skip
"""Words of a schema that become part of a model, or whose references would be broken outside of it."""


PATTERNS = ConfigDict(regex_engine="python-re")
"""Python's regular expressions are closer to those of JSON Schema than pydantic's own."""


class Options(Model):
    """A nested mapping in a driver's options."""

    model_config = PATTERNS


class OpenLabel(PoolLabel):
    """The keys that every label of such a driver has."""

    model_config = PATTERNS


class OpenPool(PoolConfig):
    """The keys that every pool of such a driver has."""

    model_config = PATTERNS

    labels: tuple[OpenLabel, ...] = ()
    max_cores: AnyCount | None = None
    max_ram: AnyCount | None = None
    """MiB."""

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label.name for label in self.labels))

    def limits(self) -> Limits:
        return Limits({INSTANCES: self.max_servers, CORES: self.max_cores, RAM: self.max_ram})


class OpenProvider(LaunchingProviderConfig):
    """The keys that every provider of such a driver has."""

    model_config = PATTERNS

    must_differ: ClassVar[tuple[Unique, ...]] = (
        *LaunchingProviderConfig.must_differ,
        Unique("label", "labels[]", scope="pools[]"),
    )
    must_exist: ClassVar[tuple[Reference, ...]] = (Reference("label", "pools[].labels[].name", TOP_LABELS),)

    made_by: ClassVar[Any] = None
    """The plugin that made the model: the driver is started by the command that described it."""

    pools: tuple[OpenPool, ...] = ()


def provider_model(schemas: Schemas) -> type[OpenProvider]:
    """Return the model of a driver's providers."""
    label = _model("Label", schemas.label, OpenLabel, {})
    pool = _model("Pool", schemas.pool, OpenPool, {"labels": (_tuple_of(label), ())})
    return _model("Provider", schemas.provider, OpenProvider, {"pools": (_tuple_of(pool), ())})


def options_model(name: str, schema: Schema, base: type[ModelT], fields: dict[str, Any] | None = None) -> type[ModelT]:
    """Return a model of the options in *schema*, besides those of *base*; *fields* replace options of the schema."""
    return _model(name, schema, base, dict(fields or {}))


def _tuple_of(item: Any) -> Any:
    return tuple[item, ...]


def _model(name: str, schema: Schema, base: type[ModelT], fields: dict[str, Any]) -> type[ModelT]:
    """Return *base* with the properties of *schema*, except those that *base* has already."""
    known = {info.alias or field for field, info in base.model_fields.items()}
    required = schema.get("required", ())
    for key, each in (schema.get("properties") or {}).items():
        if key not in known and isinstance(each, dict):
            fields[_attribute(key)] = _field(key, each, schema.get("$defs", {}), is_required=key in required)
    more = schema.get("additionalProperties")
    extra: Any = "forbid" if more is False else "allow"
    made = create_model(name, __base__=base, **fields)
    made.model_config = ConfigDict(**{**base.model_config, "extra": extra})
    if has_secret(more, schema.get("$defs", {})):
        made.model_config["json_schema_extra"] = {"additionalProperties": {"writeOnly": True}}
    made.model_rebuild(force=True)
    return made


def _attribute(key: str) -> str:
    """Return a unique field name for *key*; configurations use the alias."""
    return "option_" + "".join(letter if letter.isalnum() else "_" for letter in key)


def _field(key: str, schema: Schema, defs: Schema, *, is_required: bool) -> tuple[Any, Any]:
    annotation = _annotation(schema, defs, 0)
    shown = {name: value for name, value in schema.items() if name not in TRANSLATED}
    default = ... if is_required else schema.get("default")
    return annotation, Field(default=default, alias=key, description=schema.get("description"), json_schema_extra=shown)


def _annotation(schema: Any, defs: Schema, depth: int) -> Any:
    made = _type(schema, defs, depth)
    if isinstance(schema, dict) and (is_secret(schema) or (made is Any and has_secret(schema, defs))):
        return Annotated[made, Field(json_schema_extra={"writeOnly": True})]
    return made


def _type(schema: Any, defs: Schema, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return Any
    if isinstance(schema.get("$ref"), str):
        return _annotation(defs.get(schema["$ref"].rpartition("/")[2]), defs, depth + 1)
    for word in ("anyOf", "oneOf"):
        if schema.get(word):
            return reduce(or_, (Annotated[_annotation(each, defs, depth + 1), None] for each in schema[word]))
    if "const" in schema or schema.get("enum"):
        return Literal[tuple(schema.get("enum", [schema.get("const")]))]
    kind = schema.get("type")
    if isinstance(kind, list):
        return reduce(or_, (Annotated[_annotation({**schema, "type": each}, defs, depth + 1), None] for each in kind))
    return _typed(kind, schema, defs, depth)


def _typed(kind: Any, schema: Schema, defs: Schema, depth: int) -> Any:
    match kind:
        case "string":
            shortest, longest = schema.get("minLength"), schema.get("maxLength")
            return Annotated[StrictStr, Field(min_length=shortest, max_length=longest, pattern=_pattern(schema))]
        case "integer":
            return Annotated[StrictInt, _bounds(schema)]
        case "number":
            return Annotated[StrictFloat, _bounds(schema)]
        case "boolean":
            return StrictBool
        case "null":
            return None
        case "array":
            fewest, most = schema.get("minItems"), schema.get("maxItems")
            items = _tuple_of(_annotation(schema.get("items"), defs, depth + 1))
            return Annotated[items, Field(min_length=fewest, max_length=most)]
        case "object" if schema.get("properties"):
            return _model("Options", {**schema, "$defs": defs}, Options, {})
        case "object":
            return dict[StrictStr, _annotation(schema.get("additionalProperties"), defs, depth + 1)]  # type: ignore[misc]
        case _:
            return Any


def _bounds(schema: Schema) -> Any:
    return Field(
        ge=schema.get("minimum"),
        gt=schema.get("exclusiveMinimum"),
        le=schema.get("maximum"),
        lt=schema.get("exclusiveMaximum"),
        multiple_of=schema.get("multipleOf"),
    )


def _pattern(schema: Schema) -> str | None:
    """Return the pattern of *schema*; None if Python can't compile it, so that only the driver checks it."""
    pattern = schema.get("pattern")
    try:
        re.compile(pattern or "")
    except (re.error, TypeError):
        return None
    return pattern
