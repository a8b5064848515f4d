"""Checks of the values that a driver returns, for every driver, in any process.

The values go into records that others read, count as quota, and are shown to people. Each function returns its value,
or raises a DriverError of kind ``internal`` that names the field; docs/driver-contract.md has the same limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from math import inf, isfinite
from operator import attrgetter
from typing import Any, Final

from nodelaunch.errors import MAX_ID, DriverError, has_controls, is_sound_id
from nodelaunch.protocol.driver import ExternalId, Inspection, Instance, LabelTraits, Login, Machine, Resource
from nodelaunch.protocol.quota import Limits, Usage

MAX_TEXT: Final = 1000
"""Characters of a name, an address, a zone, and similar texts."""
MAX_DATA: Final = 16 << 10
"""Bytes of a driver's data with an instance (``driver_data``, ``attributes``, ``node_properties``), as JSON."""
MAX_DEPTH: Final = 64
"""Nested objects and lists; every codec can handle that depth."""
MAX_AMOUNT: Final = 1 << 53
"""Largest amount of a resource; up to it every program represents every whole number exactly."""
MAX_KEYS: Final = 64
MAX_KEY: Final = 8192
"""Characters of one host key."""
NO_PORT: Final = "unknown"
"""The port in a record while the port is unknown."""

_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?").fullmatch
_PORT: Final = range(1, 65536)
_ADDRESSES: Final = ("interface_ip", "public_ipv4", "private_ipv4", "public_ipv6")
_KEYS: Final = ("host_keys", "expected_host_keys")
_TEXTS: Final = ("cloud", "region", "zone", "host_id", "hostname")
_LOGIN_TEXTS: Final = ("username", "connection_type", "shell_type", "python_path")
_TRAIT_TEXTS: Final = ("image_id", "diskimage", "probe_key", *_LOGIN_TEXTS)
_addresses_of, _keys_of, _texts_of = (attrgetter(*names) for names in (_ADDRESSES, _KEYS, _TEXTS))
_login_texts_of, _trait_texts_of = (attrgetter(*names) for names in (_LOGIN_TEXTS, _TRAIT_TEXTS))
_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that a text within JSON must not have; line breaks and tabs may be intended."""


def _wrong(call: str, field: str, fault: str) -> DriverError:
    return DriverError(f"the driver's answer to {call} is invalid at {field}: {fault}")


# -- single values ---------------------------------------------------------------------------------------------------


def text_fault(value: object) -> str | None:
    """Return why *value* is no valid text of one line; None: it is valid."""
    if not isinstance(value, str):
        return f"a text was expected, not {type(value).__name__}"
    if len(value) > MAX_TEXT:
        return f"longer than {MAX_TEXT} characters"
    return None if value.isprintable() or not has_controls(value) else "it has control characters"


def id_fault(value: object) -> str | None:
    if is_sound_id(value):
        return None
    if isinstance(value, str) and len(value) > MAX_ID:
        return f"longer than {MAX_ID} characters"
    return "it is empty" if value == "" else text_fault(value)


def address_fault(value: object) -> str | None:
    """Return why *value* is no IP address or host name; the empty text is valid for an instance without an address."""
    fault = text_fault(value)
    if fault is not None or not value or _is_address(str(value)):
        return fault
    return "it is neither an IP address nor the name of a host"


def _is_address(value: str) -> bool:
    if _HOST(value) is not None and len(value) <= 255:
        return True
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def port_fault(value: object) -> str | None:
    """Return why *value* is no valid port: a number, `NO_PORT`, or credentials as Kubernetes' drivers have them, an
    object of texts, flags and numbers."""
    if isinstance(value, Mapping):
        simple = (str, bool, int, float, type(None))
        if all(isinstance(each, simple) for each in value.values()):
            return json_fault(value, MAX_DATA)
        return "an object with something else than texts, numbers and flags in it"
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if (is_number and value in _PORT) or value == NO_PORT:
        return None
    return f"a number from 1 to {_PORT[-1]} was expected"


def amounts_fault(amounts: Mapping[str, Any], most: float = MAX_AMOUNT) -> str | None:
    for name, amount in amounts.items():
        fault = text_fault(name)
        if fault is not None:
            return f"the name of a resource: {fault}"
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 <= amount <= most:
            return f"{name}: a number from 0 to 2**53 was expected"
    return None


def keys_fault(keys: object) -> str | None:
    """Return why *keys* are no valid host keys, ``<type> <base64>`` each."""
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        return "a list of texts was expected"
    if len(keys) > MAX_KEYS:
        return f"more than {MAX_KEYS}"
    for key in keys:
        if not isinstance(key, str) or len(key) > MAX_KEY or has_controls(key):
            return f"each has to be a text of one line, of {MAX_KEY} characters at most"
    return None


def json_fault(value: object, most: int | None = None, depth: int = 0) -> str | None:
    """Return why *value* is no JSON that every program can read, of *most* bytes; None: it is valid."""
    fault = _part_fault(value, depth)
    if fault is None and most is not None and len(json.dumps(_plain(value))) > most:
        return f"more than {most} bytes"
    return fault


def _part_fault(value: object, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    match value:
        case None | bool():
            return None
        case str():
            return "a text in it has control characters" if _CONTROLS.search(value) else None
        case int():
            return None if -(1 << 63) <= value < 1 << 63 else "a number in it has more than 64 bits"
        case float():
            return None if isfinite(value) else "a number in it is not finite"
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                return "a key in it is no text"
            parts = (*value, *value.values())
        case list() | tuple():
            parts = tuple(value)
        case _:
            return f"{type(value).__name__} is no JSON"
    return next((fault for part in parts if (fault := _part_fault(part, depth + 1)) is not None), None)


def _plain(value: Any) -> Any:
    """Return *value* with dicts for other mappings, which ``json`` does not know."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


# -- answers ---------------------------------------------------------------------------------------------------------


def sound_id(value: Any, call: str = "create_instance") -> ExternalId:
    """Return *value*, an instance's id. Raises: DriverError."""
    if (fault := id_fault(value)) is not None:
        raise _wrong(call, "external_id", fault)
    return ExternalId(value)


def sound_instance(instance: Instance, asked_for: str, call: str = "wait_until_active") -> Instance:
    """Return *instance*, the answer to a wait for the instance *asked_for*. Raises: DriverError."""
    sound_listed(instance, call)
    if instance.external_id != asked_for:
        raise _wrong(call, "external_id", "it names another instance")
    if instance.is_active is not True:
        raise _wrong(call, "is_active", "the instance is not active")
    for value in _addresses_of(instance):
        if value is not None and (fault := address_fault(value)) is not None:
            raise _wrong(call, _named(instance, _ADDRESSES, value), fault)
    _check_texts(call, instance, _TEXTS, _texts_of(instance))
    if instance.connection_port is not None:
        _check(call, "connection_port", port_fault(instance.connection_port))
    if instance.login is not None:
        _check_login(call, instance.login)
    for keys in _keys_of(instance):
        if keys is not None and (fault := keys_fault(keys)) is not None:
            raise _wrong(call, _named(instance, _KEYS, keys), fault)
    _check_data(call, instance)
    return instance


def _check_data(call: str, instance: Instance) -> None:
    """Check the driver's data with the instance."""
    if instance.slot is not None:
        _check(call, "slot", _slot_fault(instance.slot))
    if instance.node_properties != {}:
        _check(call, "node_properties", _object_fault(instance.node_properties))
    if instance.attributes is not None:
        _check(call, "attributes", _object_fault(instance.attributes))
    if instance.driver_data is not None:
        _check(call, "driver_data", json_fault(instance.driver_data, MAX_DATA))


def sound_listed(instance: Any, call: str = "list_instances") -> Instance:
    """Return *instance*, one of a list: only its name, metadata and usage are used. Raises: DriverError."""
    if not isinstance(instance, Instance):
        raise _wrong(call, "instance", f"an Instance was expected, not {type(instance).__name__}")
    _check(call, "external_id", id_fault(instance.external_id))
    _check_metadata(call, instance.metadata)
    if instance.resources is not None:
        _check(call, "resources", amounts_fault(instance.resources.amounts))
    return instance


def sound_usage(usage: Any, call: str = "quota_for_label") -> Usage:
    """Return *usage*. Raises: DriverError."""
    if not isinstance(usage, Usage):
        raise _wrong(call, "amounts", f"a Usage was expected, not {type(usage).__name__}")
    _check(call, "amounts", amounts_fault(usage.amounts))
    return usage


def sound_limits(limits: Any, call: str = "quota_limits") -> Limits:
    """Return *limits*. Raises: DriverError."""
    if not isinstance(limits, Limits):
        raise _wrong(call, "amounts", f"Limits were expected, not {type(limits).__name__}")
    _check(call, "amounts", amounts_fault(limits.amounts, inf))
    return limits


def sound_keys(keys: Sequence[str], call: str = "host_keys") -> Sequence[str]:
    """Return *keys*. Raises: DriverError."""
    _check(call, "host_keys", keys_fault(keys))
    return keys


def sound_zones(zones: Sequence[str], call: str = "zones") -> tuple[str, ...]:
    """Return *zones*. Raises: DriverError."""
    for zone in zones:
        _check(call, "zones", text_fault(zone))
    return tuple(zones)


def sound_resource(resource: Resource, call: str = "resources") -> Resource:
    """Return *resource*. Raises: DriverError."""
    _check(call, "kind", text_fault(resource.kind))
    _check(call, "external_id", id_fault(resource.external_id))
    _check_metadata(call, resource.metadata)
    return resource


def sound_traits(traits: LabelTraits, call: str = "label_traits") -> LabelTraits:
    """Return *traits*. Raises: DriverError."""
    _check_texts(call, traits, _TRAIT_TEXTS, _trait_texts_of(traits))
    if traits.connection_port is not None:
        _check(call, "connection_port", port_fault(traits.connection_port))
    if not 0 <= traits.settle_s < inf:
        raise _wrong(call, "settle_s", "a number of seconds was expected")
    return traits


def sound_machine(machine: Machine, call: str = "machines") -> Machine:
    """Return *machine*. Raises: DriverError."""
    _check(call, "name", "it is empty" if machine.name == "" else address_fault(machine.name))
    for text in (machine.pool, *machine.labels):
        _check(call, "pool or labels", text_fault(text))
    _check_texts(call, machine, _LOGIN_TEXTS, _login_texts_of(machine))
    _check(call, "slot", _slot_fault(machine.slot))
    port: Any = machine.connection_port
    if not isinstance(port, int) or port not in _PORT:
        raise _wrong(call, "connection_port", f"a number from 1 to {_PORT[-1]} was expected")
    return machine


def sound_inspection(found: Inspection, call: str = "inspect") -> Inspection:
    """Return *found*. Raises: DriverError."""
    _check(call, "host_keys", keys_fault(found.host_keys))
    for name in ("public_ipv4", "public_ipv6"):
        value = getattr(found, name)
        _check(call, name, None if value is None else address_fault(value))
    return found


def _check(call: str, field: str, fault: str | None) -> None:
    if fault is not None:
        raise _wrong(call, field, fault)


def _check_texts(call: str, whose: object, names: Sequence[str], texts: Iterable[object]) -> None:
    """Check *texts*, the values of *whose* fields *names*. Every node's answer has dozens, most of them None."""
    for each in texts:
        if each is not None and (fault := text_fault(each)) is not None:
            raise _wrong(call, _named(whose, names, each), fault)


def _named(whose: object, names: Sequence[str], value: object) -> str:
    """Return the first of *names* under which *whose* has *value* itself."""
    return next(name for name in names if getattr(whose, name) is value)


def _check_login(call: str, login: Login) -> None:
    _check_texts(call, login, _LOGIN_TEXTS, _login_texts_of(login))
    if login.connection_port is not None:
        _check(call, "login.connection_port", port_fault(login.connection_port))


def _check_metadata(call: str, metadata: Any) -> None:
    """Check metadata, which may have any text in it: other owners' instances are listed too."""
    if not isinstance(metadata, Mapping):
        raise _wrong(call, "metadata", f"a mapping was expected, not {type(metadata).__name__}")


def _slot_fault(slot: object) -> str | None:
    is_sound = isinstance(slot, int) and not isinstance(slot, bool) and 0 <= slot < 1 << 31
    return None if is_sound else "a whole number from 0 to 2**31 was expected"


def _object_fault(value: object) -> str | None:
    return json_fault(value, MAX_DATA) if isinstance(value, Mapping) else "an object was expected"
