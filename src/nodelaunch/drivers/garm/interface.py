"""GARM's external provider interface as data: its commands, variables and exit codes, what it is sent and answers.

A command is one run of the provider's executable: told what to do by its environment, for a create by a JSON object on
standard input; it answers by JSON on standard output and by its exit code. What does *not* belong here: running it.
Source: cloudbase/garm doc/external_provider.md; cloudbase/garm-provider-common execution and params.
"""

from __future__ import annotations

import base64
import binascii
import enum
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

EXIT_NOT_FOUND, EXIT_DUPLICATE = 30, 31
EXIT_NOT_RUN: Final = 126
"""The executable could not be started; the code a shell has for it."""


class Version(enum.StrEnum):
    """Of the interface."""

    V010 = "v0.1.0"
    V011 = "v0.1.1"


class GarmCommand(enum.StrEnum):
    CREATE = "CreateInstance"
    DELETE = "DeleteInstance"
    GET = "GetInstance"
    LIST = "ListInstances"
    CONFIG_SCHEMA = "GetConfigJSONSchema"
    """This and the next: v0.1.1."""
    EXTRA_SPECS_SCHEMA = "GetExtraSpecsJSONSchema"


class AnswerError(Exception):
    """What the provider printed is not what the interface says; the message says where."""


@dataclass(frozen=True, slots=True)
class Remote:
    """An instance as a provider tells of it."""

    provider_id: str
    name: str
    status: str = "unknown"
    addresses: Sequence[tuple[str, bool]] = field(default_factory=tuple)
    """Each with whether it is public, in the provider's order."""
    fault: str = ""
    os_name: str = ""
    os_version: str = ""

    @property
    def is_failed(self) -> bool:
        return self.status == "error"

    @property
    def is_going(self) -> bool:
        return self.status in ("deleting", "deleted", "pending_delete", "pending_force_delete")

    def address(self, version: int, *, public: bool) -> str | None:
        """The first one of that kind; *version*: 4 or 6."""
        found = (text for text, is_public in self.addresses if is_public is public and _version(text) == version)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class WantedInstance:
    """An instance to be made."""

    name: str
    pool_id: str
    image: str
    flavor: str
    os_type: str
    arch: str
    labels: Sequence[str] = ()
    ssh_keys: Sequence[str] = ()
    extra_specs: Mapping[str, Any] = field(default_factory=dict)


def environment(
    command: GarmCommand, version: Version, *, controller_id: str, config_file: str, pool_id: str = "",
    instance_id: str = "", extra_specs: Mapping[str, Any] | None = None,
) -> dict[str, str]:  # fmt: skip
    """The variables that *command* is told by."""
    told = {
        "GARM_COMMAND": str(command),
        "GARM_CONTROLLER_ID": controller_id,
        "GARM_PROVIDER_CONFIG_FILE": config_file,
        "GARM_INTERFACE_VERSION": str(version),
        "GARM_POOL_ID": pool_id,
        "GARM_INSTANCE_ID": instance_id,
    }
    if version is Version.V011 and pool_id:
        told["GARM_POOL_EXTRASPECS"] = base64.b64encode(json.dumps(extra_specs or {}).encode()).decode()
    return {name: value for name, value in told.items() if value}


def bootstrap(wanted: WantedInstance) -> bytes:
    """What CreateInstance reads.

    Providers make user data that installs a runner of GitHub's from part of it, and refuse an instance without; there
    is no runner here, so that part leads nowhere: the host ``nodelaunch.invalid`` can't exist.
    """
    nowhere = "https://nodelaunch.invalid"
    os_name, arch = (
        {"windows": "win"}.get(wanted.os_type, wanted.os_type),
        {"amd64": "x64"}.get(wanted.arch, wanted.arch),
    )
    tool = {
        "os": os_name, "architecture": arch, "filename": "none.tar.gz", "download_url": f"{nowhere}/none.tar.gz",
        "sha256_checksum": "0" * 64,
    }  # fmt: skip
    content = {
        "name": wanted.name, "pool_id": wanted.pool_id, "image": wanted.image, "flavor": wanted.flavor,
        "os_type": wanted.os_type, "arch": wanted.arch, "labels": list(wanted.labels),
        "ssh-keys": list(wanted.ssh_keys), "extra_specs": dict(wanted.extra_specs), "tools": [tool],
        "repo_url": nowhere, "callback-url": nowhere, "metadata-url": nowhere, "instance-token": "none",
        "github-runner-group": "", "ca-cert-bundle": None, "jit_config_enabled": False,
        "user_data_options": {"disable_updates_on_boot": True, "extra_packages": [], "enable_boot_debug": False},
    }  # fmt: skip
    return json.dumps(content).encode()


def read_instance(printed: bytes) -> Remote:
    """What CreateInstance and GetInstance answer. Raises: AnswerError."""
    return _instance(_json(printed))


def read_instances(printed: bytes) -> list[Remote]:
    """What ListInstances answers. Raises: AnswerError."""
    found = _json(printed)
    if found is None:  # how Go writes an empty list
        return []
    if not isinstance(found, list):
        raise AnswerError("a list of instances is expected")
    return [_instance(each) for each in found]


def read_object(printed: bytes) -> dict[str, Any]:
    """A JSON Schema. Raises: AnswerError."""
    found = _json(printed)
    if not isinstance(found, dict):
        raise AnswerError("an object is expected")
    return found


def _json(printed: bytes) -> Any:
    try:
        return json.loads(printed)
    except (ValueError, RecursionError):
        start = printed[:80].decode(errors="replace")
        raise AnswerError(f"no JSON: {start!r}") from None


def _instance(found: Any) -> Remote:
    if not isinstance(found, dict):
        raise AnswerError("an instance is expected to be an object")
    texts = {key: found.get(key) or "" for key in ("provider_id", "name", "status", "os_name", "os_version")}
    wrong = [key for key, value in texts.items() if not isinstance(value, str)]
    wrong += [key for key in ("provider_id", "name", "status") if key not in wrong and not texts[key]]
    if wrong:
        raise AnswerError(f"an instance is expected to have text as its {', '.join(wrong)}")
    addresses = found.get("addresses") or []
    if not isinstance(addresses, list) or not all(isinstance(each, dict) for each in addresses):
        raise AnswerError("an instance's addresses are expected to be a list of objects")
    known = [(str(each.get("address", "")), each.get("type") == "public") for each in addresses]
    told = [(text, is_public) for text, is_public in known if _version(text) is not None]
    return Remote(**texts, addresses=tuple(told), fault=_fault(found.get("provider_fault")))


def _fault(told: Any) -> str:
    """A provider's own words; those in Go have them in base64."""
    if not isinstance(told, str):
        return ""
    try:
        return base64.b64decode(told, validate=True).decode()
    except (binascii.Error, ValueError):
        return told


def _version(address: str) -> int | None:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return None
