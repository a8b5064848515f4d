"""Describes the HTTP interface, as OpenAPI 3.1: made of the operations and the types of their bodies.

Source: the OpenAPI Specification, version 3.1.1.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from nodelaunch import __version__
from nodelaunch.web.api import OPERATIONS, PREFIX, Operation
from nodelaunch.web.problems import MEDIA_TYPE

PROBLEMS: Final = {
    "400": "The body is no JSON.",
    "401": "No token, or not one of this launcher's.",
    "403": "The launcher's configuration names no token-file.",
    "404": "There is no such request or node.",
    "408": "The body did not come in time.",
    "409": "Somebody uses the node, or it is in another state.",
    "410": "The request has ended.",
    "413": "The body is too large.",
    "415": "The body is not said to be JSON.",
    "422": "The body or the query has something that is not allowed.",
    "429": "Too many requests.",
    "503": "The launcher is not connected to its store, or ends.",
    "504": "The store did not answer in time.",
}
"""What can be answered in place of what was asked for."""
PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "description": "Always the same for the same problem."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "About this one case."},
    },
}


def description() -> dict[str, Any]:
    """The document, as JSON."""
    kinds = {kind for operation in OPERATIONS for kind in (operation.body, operation.answer) if kind is not None}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "nodelaunch",
            "version": __version__,
            "description": "Ask for nodes, keep them, give them back.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": PREFIX}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": about, "schema": {"type": "number"}}
        for name, about in operation.query
    ]
    parameters += [
        {"name": name, "in": "header", "description": about, "schema": {"type": "string"}}
        for name, about in operation.headers
    ]
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.about,
        "responses": {
            str(operation.status): {"description": "Done.", "content": _json(operation.answer)},
            **{status: {"description": about, "content": problem} for status, about in PROBLEMS.items()},
        },
    }
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"content": _json(operation.body)}
    return described


def _json(kind: type[Any] | None) -> dict[str, Any]:
    assert kind is not None  # noqa: S101
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
