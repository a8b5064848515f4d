"""Secrets that a driver was given are replaced in all output about it, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, SecretStr

from nodelaunch.config.models import Model, ProviderConfig
from nodelaunch.config.secrets import secret_texts
from nodelaunch.driverhost.process.options import provider_model
from nodelaunch.driverhost.process.redaction import MAX_PARTS, Redactor, content_of, redactor_of
from nodelaunch.driverhost.wire.messages import Schemas

SCHEMAS = Schemas(
    provider={
        "properties": {
            "password": {"type": "string", "writeOnly": True},
            "login": {
                "type": "object",
                "properties": {"token": {"type": "string", "format": "password"}, "user": {"type": "string"}},
            },
            "keys": {"type": "array", "items": {"type": "string"}, "writeOnly": True},
        }
    },
    label={"properties": {"pin": {"type": "string", "writeOnly": True}}},
)


def provider(**more: Any) -> ProviderConfig:
    content = {
        "name": "cloud", "driver": "mine", "password": "hunter2-hunter2", "keys": ["first-key", "second-key"],
        "login": {"token": "tok-123456", "user": "somebody"},
        "pools": [{"name": "main", "labels": [{"name": "small", "pin": "pin-987654"}]}], **more,
    }  # fmt: skip
    return provider_model(SCHEMAS).model_validate(content)


def test_options_that_the_schema_calls_secret_are_replaced_wherever_they_are() -> None:
    redact = redactor_of(provider())
    said = "hunter2-hunter2 tok-123456 first-key second-key pin-987654 somebody cloud"
    assert redact(said) == "*** *** *** *** *** somebody cloud"


def test_options_that_the_schema_calls_secret_are_not_in_what_models_show_of_themselves() -> None:
    config = provider()
    for shown in (repr(config), str(config), repr(config.pools), repr([config])):
        for secret in ("hunter2-hunter2", "tok-123456", "first-key", "second-key", "pin-987654"):
            assert secret not in shown
    assert "somebody" in repr(config)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ({"type": "array", "items": {"type": "string", "writeOnly": True}}, ["hunter2-hunter2", "plain"]),
        ({"type": "array", "items": {"$ref": "#/$defs/Key"}}, ["hunter2-hunter2"]),
        ({"type": "array", "items": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Key"}]}}, ["hunter2-hunter2"]),
        ({"type": "object", "additionalProperties": {"$ref": "#/$defs/Key"}}, {"a": "hunter2-hunter2"}),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/Key"}}}},
         {"a": ["hunter2-hunter2"]}),
        ({"$ref": "#/$defs/Key"}, "hunter2-hunter2"),
        ({"allOf": [{"$ref": "#/$defs/Key"}]}, "hunter2-hunter2"),
        ({"items": {"$ref": "#/$defs/Key"}}, ["hunter2-hunter2"]),
        ({"properties": {"a": {"$ref": "#/$defs/Key"}}}, {"a": "hunter2-hunter2"}),
        ({"type": "object", "properties": {"b": {}}, "additionalProperties": {"$ref": "#/$defs/Key"}},
         {"a": "hunter2-hunter2"}),
        ({"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/Key"}]}, "hunter2-hunter2"),
        ({"writeOnly": True}, {"anything": ["hunter2-hunter2"]}),
    ],
)  # fmt: skip
def test_secrets_are_found_wherever_a_schema_has_them(option: dict[str, Any], value: Any) -> None:
    defs = {"Key": {"type": "string", "format": "password"}}
    schemas = Schemas(provider={"$defs": defs, "properties": {"option": option}})
    config = provider_model(schemas).model_validate({"name": "cloud", "driver": "mine", "option": value})
    assert redactor_of(config)("it is hunter2-hunter2") == "it is ***"
    assert "hunter2" not in repr(config) + str(config)


def test_what_is_no_secret_stays_readable_beside_one() -> None:
    defs = {"Key": {"type": "string", "format": "password"}}
    option = {"type": "object", "properties": {"key": {"$ref": "#/$defs/Key"}, "user": {"type": "string"}}}
    schemas = Schemas(provider={"$defs": defs, "properties": {"option": option, "any": {}}})
    content = {"option": {"key": "hunter2-hunter2", "user": "somebody"}, "any": ["anything"]}
    config = provider_model(schemas).model_validate({"name": "cloud", "driver": "mine", **content})
    assert redactor_of(config)("hunter2-hunter2 somebody anything") == "*** somebody anything"


def test_schema_that_refers_to_itself_is_gone_through_once() -> None:
    defs = {"Tree": {"type": "object", "properties": {"key": {"type": "string", "writeOnly": True},
                     "next": {"$ref": "#/$defs/Tree"}}},
            "Circle": {"$ref": "#/$defs/Circle"}}  # fmt: skip
    schema = {"$defs": defs, "properties": {"tree": {"$ref": "#/$defs/Tree"}, "circle": {"$ref": "#/$defs/Circle"}}}
    value = {"tree": {"key": "first", "next": {"key": "second", "next": {}}}, "circle": "round"}
    assert list(secret_texts(schema, value)) == ["first", "second"]


def test_values_of_variables_that_are_passed_on_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_TOKEN", "from-the-environment")
    redact = redactor_of(provider(**{"pass-environment": ["CLOUD_TOKEN", "NOT_THERE"]}))
    assert redact("it is from-the-environment") == "it is ***"


def test_short_values_are_left_alone() -> None:
    assert Redactor(["12345", "no", ""])("12345 is no number") == "12345 is no number"


def test_secret_is_found_as_json_and_urls_have_it_and_line_by_line() -> None:
    redact = Redactor(['a"quoted" one', "first line\nsecond line\n"])
    assert redact('{"password": "a\\"quoted\\" one"}') == '{"password": "***"}'
    assert redact("GET /?p=a%22quoted%22%20one") == "GET /?p=***"
    assert redact("got: second line") == "got: ***"


def test_longer_secret_goes_before_one_that_it_begins_with() -> None:
    assert Redactor(["secret", "secret-and-more"])("secret-and-more") == "***"


def test_structured_entries_are_gone_through() -> None:
    redact = Redactor(["hunter2"])
    entry = {"a": "hunter2", "hunter2": 1, "b": [{"c": "x hunter2"}, 5, None, True]}
    assert redact.entry(entry) == {"a": "***", "***": 1, "b": [{"c": "x ***"}, 5, None, True]}


def test_what_is_too_much_to_look_at_is_left_out() -> None:
    told = Redactor(["hunter2"]).entry({"all": ["x"] * (2 * MAX_PARTS)})
    assert told["all"].count("x") < MAX_PARTS
    assert set(told["all"]) == {"x", "***"}


def test_without_secrets_all_stays_as_it_is() -> None:
    redact = Redactor()
    assert redact("anything") == "anything"
    assert redact.entry({"a": ["b"]}) == {"a": ["b"]}


class Login(Model):
    password: SecretStr = Field(default=SecretStr(""))


class SecretiveProvider(ProviderConfig):
    login: Login = Field(default_factory=Login)


def test_secrets_of_python_drivers_are_replaced_and_still_reach_their_process() -> None:
    content = {"name": "cloud", "driver": "mine", "login": {"password": "hunter2-hunter2"}}
    config = SecretiveProvider.model_validate(content)
    assert redactor_of(config)("hunter2-hunter2") == "***"
    assert content_of(config) == content


def test_driver_is_not_told_who_may_use_what() -> None:
    """The driver may refuse options that it does not know."""
    label = {"name": "small", "pin": "pin-987654", "allowed-tenants": ["acme"]}
    told = content_of(provider(pools=[{"name": "main", "allowed-tenants": ["acme"], "labels": [label]}]))
    assert told["pools"] == [{"name": "main", "labels": [{"name": "small", "pin": "pin-987654"}]}]
