"""The whole configuration as one JSON Schema (2020-12), from the models, for editors and other checkers.

A schema says which values are allowed in one place. It can't express rules across mappings or between keys; only
``nodelaunch config check`` checks these. The schema accepts every configuration that ``config check`` accepts.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from nodelaunch.config.models import DEFAULT_DRIVER, FAKE_DRIVER, FAKE_PREFIX, Config, ProviderConfig

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


class OptionsSchema(GenerateJsonSchema):
    """Makes schemas for authors of a configuration: with the docstrings of options as descriptions, without titles,
    which would only repeat the keys."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        kind: type[BaseModel] = schema["cls"]
        for name, info in kind.model_fields.items():
            said = info.description or _docstring_of(kind, name)
            option = made.get("properties", {}).get(info.alias or name)
            if said and option is not None:
                option["description"] = said
        made.pop("title", None)
        made.pop("description", None)  # the docstring of the class, which is for readers of the code
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  as its base has it
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if "default" in made and made["default"] in (None, [], {}):
            del made["default"]  # only says that the key may be left out
        return made


def schema_of(model: type[BaseModel], *, ref_template: str = "#/$defs/{model}") -> Schema:
    """Return the schema of one model, with the keys of the configuration file."""
    mode: JsonSchemaMode = "validation"
    return model.model_json_schema(by_alias=True, mode=mode, schema_generator=OptionsSchema, ref_template=ref_template)


def without_unused(schema: Schema) -> Schema:
    """Return *schema* without the ``$defs`` that nothing in it refers to."""
    defs = schema.get("$defs", {})
    rest = {key: value for key, value in schema.items() if key != "$defs"}
    used: set[str] = set()
    waiting = [rest]
    while waiting:
        for name in _references(waiting.pop()):
            if name in defs and name not in used:
                used.add(name)
                waiting.append(defs[name])
    return {**({"$defs": {name: defs[name] for name in sorted(used)}} if used else {}), **rest}


def _references(value: Any) -> Iterator[str]:
    """Yield the names of the definitions that *value* refers to."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].removeprefix("#/$defs/")
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """The driver's name and model, for the schema."""

    name: str
    """The driver's name in a configuration."""
    model: type[ProviderConfig]
    summary: str = ""


def config_schema(drivers: Iterable[DriverOptions]) -> Schema:
    """Return the schema of a configuration whose providers have these *drivers*."""
    whole = schema_of(Config)
    defs: Schema = whole.setdefault("$defs", {})
    defs.pop("ProviderConfig", None)
    defs.pop("PoolConfig", None)
    _allow_old_names(Config, whole, defs)
    for key, option in whole["properties"].items():
        if option.get("type") == "array":
            option["type"] = ["array", "null"]  # a list key without a value: a warning, no error
        if key == "providers":
            option["items"] = _providers(list(drivers), defs)
    return {"$schema": DIALECT, "title": "nodelaunch configuration", **whole, "$defs": dict(sorted(defs.items()))}


def _providers(drivers: list[DriverOptions], defs: Schema) -> Schema:
    """Return the schema of one provider, whose keys depend on its driver; add the definitions to *defs*."""
    named = {driver.name: _add_driver(driver, defs) for driver in drivers}
    known: Schema = {"enum": sorted(named)}
    path: Schema = {"type": "string", "pattern": "/", "description": "Path of a driver's executable."}
    choices = [
        {"if": {"type": "object", "properties": {"driver": {"const": name}}, "required": ["driver"]}, "then": where}
        for name, where in named.items()
    ]
    must_be_named: Schema = {"required": ["driver"]}
    unnamed = {
        "if": {"type": "object", "not": {"required": ["driver"]}},
        "then": {
            "if": {"properties": {"name": {"type": "string", "pattern": f"^{re.escape(FAKE_PREFIX)}"}}},
            "then": named.get(FAKE_DRIVER, must_be_named),
            "else": named.get(DEFAULT_DRIVER, must_be_named),
        },
    }
    about = f"The driver that makes the nodes; default: {DEFAULT_DRIVER}."
    return {
        "type": "object",
        "properties": {"name": {"type": "string"}, "driver": {"anyOf": [known, path], "description": about}},
        "required": ["name"],
        "allOf": [*choices, unnamed],
    }


def _add_driver(driver: DriverOptions, defs: Schema) -> Schema:
    """Add the schema of the driver's providers to *defs*, and return a reference to it."""
    prefix = re.sub(r"[^A-Za-z0-9_-]", "_", driver.name.rpartition("/")[2])
    made = schema_of(driver.model, ref_template=f"#/$defs/{prefix}.{{model}}")
    inner: Schema = made.pop("$defs", {})
    defs.update({f"{prefix}.{name}": each for name, each in inner.items()})
    made["properties"]["driver"] = {"const": driver.name, **({"description": driver.summary} if driver.summary else {})}
    made["required"] = [key for key in made.get("required", ()) if key != "driver"]
    _allow_old_names(driver.model, made, defs)
    defs[prefix] = made
    return {"$ref": f"#/$defs/{prefix}"}


def _allow_old_names(model: type[Config | ProviderConfig], schema: Schema, defs: Schema) -> None:
    """Add old names of keys as deprecated keys."""
    for pattern, new in model.old_names.items():
        *outer, old = pattern.split(".")
        at = schema
        for step in outer:
            at = _behind(at["properties"][step.removesuffix("[]")], defs, is_list=step.endswith("[]"))
        at["properties"][old] = {**at["properties"][new], "deprecated": True, "description": f"Old name of {new}."}


def _behind(option: Schema, defs: Schema, *, is_list: bool) -> Schema:
    """Return the schema of the mapping that *option* is, or has as items."""
    inner: Schema = option["items"] if is_list else option
    found: Schema = defs[inner["$ref"].removeprefix("#/$defs/")] if "$ref" in inner else inner
    return found


# -- docstrings of options ------------------------------------------------------------------------------------------

# pydantic's use_attribute_docstrings parses the source whenever a model is imported. That would make the start of each
# command slower by a twentieth, and only this schema has use for the docstrings.


def _docstring_of(model: type[BaseModel], field: str) -> str | None:
    """Return the docstring below *field* where it is defined, on one line."""
    for kind in model.__mro__:
        if field in inspect.get_annotations(kind):
            return _docstrings(kind).get(field)
    return None


@cache
def _docstrings(kind: type) -> Mapping[str, str]:
    """Return the docstring of each field in the source of *kind*; empty if there is no source."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    found: dict[str, str] = {}
    for above, below in itertools.pairwise(body):
        match above, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split()).replace("``", "`")
    return found
