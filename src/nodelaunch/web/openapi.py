"""Describes the HTTP API as OpenAPI 3.1, from its operations and the types of their bodies.

Source: the OpenAPI Specification, version 3.1.1.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from nodelaunch import __version__
from nodelaunch.web.operations import OPERATIONS, PREFIX, Operation
from nodelaunch.web.problems import MEDIA_TYPE

PROBLEMS: Final = {
    "400": "The body is not valid JSON.",
    "401": "The token is missing, or is not a token of this launcher.",
    "403": "The launcher's configuration names no token-file.",
    "404": "There is no such request or node.",
    "408": "The body did not arrive in time.",
    "409": "The node is in use, or is in another state.",
    "410": "The request has ended.",
    "413": "The body is too large.",
    "415": "The Content-Type of the body is not JSON.",
    "422": "The body or the query has a value or key that is not allowed.",
    "429": "Too many requests.",
    "503": "The launcher is not connected to its store, or is stopping.",
    "504": "The store did not answer in time.",
}
"""The error answers, by status."""
PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "description": "Constant for each kind of problem."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "Details of this case."},
    },
}


def description() -> dict[str, Any]:
    """Return the document, as JSON."""
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
            "description": "Request nodes, keep them, return them.",
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
