"""Options of a schema as people read them."""

from __future__ import annotations

from nodelaunch.config.optionlist import Option, options_in


def test_options_with_kinds_defaults_and_meanings() -> None:
    schema = {
        "required": ["region"],
        "properties": {
            "region": {"type": "string", "description": "Where\n  it is."},
            "size": {"type": ["integer", "null"], "default": 3},
            "mode": {"enum": ["auto", "fast", 5], "default": "auto"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "public": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": "later"}]},
            "odd": True,
        },
    }
    assert options_in(schema) == [
        Option("region", "text", "required", "Where it is."),
        Option("size", "integer", "3", ""),
        Option("mode", "auto, fast or 5", "auto", ""),
        Option("tags", "list of texts", "", ""),
        Option("public", "true or false or later", "", ""),
        Option("odd", "anything", "", ""),
    ]


def test_options_of_inner_mappings_are_behind_their_key() -> None:
    schema = {
        "$defs": {"Disk": {"type": "object", "properties": {"gb": {"type": "integer"}}, "required": ["gb"]}},
        "properties": {
            "disks": {"type": "array", "items": {"$ref": "#/$defs/Disk"}},
            "root": {"$ref": "#/$defs/Disk", "description": "To boot from."},
            "spare": {"anyOf": [{"$ref": "#/$defs/Disk"}, {"type": "null"}]},
        },
    }
    assert [(option.key, option.kind, option.default) for option in options_in(schema)] == [
        ("disks", "list", ""),
        ("disks[].gb", "integer", "required"),
        ("root", "mapping", ""),
        ("root.gb", "integer", "required"),
        ("spare", "mapping", ""),
        ("spare.gb", "integer", "required"),
    ]


def test_schema_that_contains_itself_ends() -> None:
    schema = {"$defs": {"A": {"properties": {"a": {"$ref": "#/$defs/A"}}}}, "properties": {"a": {"$ref": "#/$defs/A"}}}
    assert len(options_in(schema)) < 20
