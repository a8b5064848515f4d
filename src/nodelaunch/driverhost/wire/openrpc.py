"""The contract on the wire as an OpenRPC document, generated from the models.

    python -m nodelaunch.driverhost.wire.openrpc > docs/driver-contract.openrpc.json

docs/driver-contract.md has the rules that the form of messages can't express.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from nodelaunch.driverhost.wire.cluster import CLUSTER_ERROR, CLUSTER_METHODS, CLUSTER_NOTES, ClusterFault
from nodelaunch.driverhost.wire.handshake import CONTRACT
from nodelaunch.driverhost.wire.messages import METHODS, NOTES, FaultInfo, Method
from nodelaunch.driverhost.wire.peer import DRIVER_ERROR

Json = dict[str, Any]
_SCHEMAS = "#/components/schemas/"


def document() -> Json:
    """Return the document: methods of the driver, methods of the launcher, and notifications, which have no result."""
    methods, notes = {**METHODS, **CLUSTER_METHODS}, {**NOTES, **CLUSTER_NOTES}
    carried: list[type[BaseModel]] = [each for m in methods.values() for each in (m.params, m.result)]
    models: list[type[BaseModel]] = [*carried, *(params for params, _ in notes.values()), FaultInfo, ClusterFault]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=_SCHEMAS + "{model}")
    definitions = schemas["$defs"]
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "nodelaunch driver contract",
            "version": f"{CONTRACT.max}.0",
            "description": "JSON-RPC 2.0, one object per line, between launcher and driver. See driver-contract.md.",
            "license": {"name": "Apache-2.0"},
        },
        "methods": [
            *(_method(method, definitions) for method in methods.values()),
            *(_note(name, params, about, definitions) for name, (params, about) in notes.items()),
        ],
        "components": {
            "schemas": definitions,
            "errors": {
                "driver": {
                    "code": DRIVER_ERROR,
                    "message": "a text for people",
                    "data": {"$ref": _SCHEMAS + "FaultInfo"},
                },
                "cluster": {
                    "code": CLUSTER_ERROR,
                    "message": "a text for people",
                    "data": {"$ref": _SCHEMAS + "ClusterFault"},
                },
            },
        },
    }


def _method(method: Method[Any, Any], definitions: Mapping[str, Json]) -> Json:
    is_launchers = method.name in CLUSTER_METHODS
    described: Json = {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": _params(method.params, definitions),
        "result": {"name": method.result.__name__, "schema": {"$ref": _SCHEMAS + method.result.__name__}},
        "errors": [{"$ref": "#/components/errors/" + ("cluster" if is_launchers else "driver")}],
    }
    if is_launchers:
        described["x-answered-by"] = "launcher"
    return {**described, "x-capability": method.capability} if method.capability else described


def _note(name: str, params: type[BaseModel], about: str, definitions: Mapping[str, Json]) -> Json:
    return {"name": name, "summary": about, "paramStructure": "by-name", "params": _params(params, definitions)}


def _params(model: type[BaseModel], definitions: Mapping[str, Json]) -> list[Json]:
    schema = definitions[model.__name__]
    required = schema.get("required", ())
    properties: Mapping[str, Json] = schema.get("properties", {})
    return [{"name": name, "required": name in required, "schema": each} for name, each in properties.items()]


def text() -> str:
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
