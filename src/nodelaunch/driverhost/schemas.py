"""Derives the capabilities of a driver, and the JSON Schemas of its own options, from its plugin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from nodelaunch.config.models import LaunchingProviderConfig, PoolConfig, PoolLabel, ProviderConfig
from nodelaunch.config.schema import schema_of, without_unused
from nodelaunch.driverhost.wire.messages import CAPABILITIES, CLUSTER, Schemas
from nodelaunch.drivers.plugin import DriverPlugin


def capabilities_of(plugin: DriverPlugin) -> tuple[str, ...]:
    """Return the capabilities that the plugin names, and those of its driver class.

    The class is ``open`` itself, or the annotated return type of ``open``.
    """
    if plugin.is_process:
        return plugin.capabilities
    opens = plugin.open
    kind = opens if isinstance(opens, type) else get_type_hints(opens).get("return")
    by_class = (name for name, each in CAPABILITIES.items() if isinstance(kind, type) and issubclass(kind, each))
    by_need = (CLUSTER,) if plugin.needs_cluster else ()
    return tuple(dict.fromkeys((*plugin.capabilities, *by_class, *by_need)))


def schemas_of(model: type[ProviderConfig]) -> Schemas:
    """Return the schemas of the options in *model* that are the driver's own."""
    common = LaunchingProviderConfig if issubclass(model, LaunchingProviderConfig) else ProviderConfig
    pool = _item(model, "pools") or PoolConfig
    label = _item(pool, "labels")
    return Schemas(
        provider=_own(model, common, "pools"),
        pool=_own(pool, PoolConfig, "labels"),
        label=_own(label, PoolLabel, "name") if label is not None else {},
    )


def _item(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """Return the model of the items of a list, if they have one."""

    info = model.model_fields.get(field)
    kinds: Iterable[Any] = get_args(info.annotation) if info is not None else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _own(model: type[BaseModel], common: type[BaseModel] | None, *besides: str) -> dict[str, Any]:
    schema = schema_of(model)
    known = {*besides, *(info.alias or name for name, info in (common.model_fields if common else {}).items())}
    schema["properties"] = {name: each for name, each in schema.get("properties", {}).items() if name not in known}
    schema["required"] = [name for name in schema.get("required", ()) if name not in known]
    return without_unused(schema)
