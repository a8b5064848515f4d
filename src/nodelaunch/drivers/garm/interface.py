"""GARM's external provider interface as data: commands, variables, exit codes, input and answers.

A command is one run of the provider's executable. Environment variables name the command and its parameters; a create
also reads a JSON object from standard input. The answer is JSON on standard output, and the exit code. calls.py runs
commands. Source: cloudbase/garm doc/external_provider.md; cloudbase/garm-provider-common execution and params.
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
"""Exit code if the executable could not be started, as shells have it."""


class Version(enum.StrEnum):
    """Version of the interface."""

    V010 = "v0.1.0"
    V011 = "v0.1.1"


class GarmCommand(enum.StrEnum):
    CREATE = "CreateInstance"
    DELETE = "DeleteInstance"
    GET = "GetInstance"
    LIST = "ListInstances"
    CONFIG_SCHEMA = "GetConfigJSONSchema"
    """Only in v0.1.1, as is the next command."""
    EXTRA_SPECS_SCHEMA = "GetExtraSpecsJSONSchema"


class AnswerError(Exception):
    """The provider's output breaks the interface's rules; the message says where."""


@dataclass(frozen=True, slots=True)
class Remote:
    """An instance as the provider reports it."""

    provider_id: str
    name: str
    status: str = "unknown"
    addresses: Sequence[tuple[str, bool]] = field(default_factory=tuple)
    """Addresses in the provider's order, each with True if it is public."""
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
        """Return the first address of that kind, or None. *version*: 4 or 6."""
        found = (text for text, is_public in self.addresses if is_public is public and _version(text) == version)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class WantedInstance:
    """An instance to create."""

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
    """Return the environment variables for *command*."""
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
    """Return the input of CreateInstance.

    From a part of the input providers make user data that installs a GitHub runner; they refuse an instance without
    that part. Here no runner is wanted, so the part names the host ``nodelaunch.invalid``, which can't exist.
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
    """Parse the answer of CreateInstance and GetInstance. Raises: AnswerError."""
    return _instance(_json(printed))


def read_instances(printed: bytes) -> list[Remote]:
    """Parse the answer of ListInstances. Raises: AnswerError."""
    found = _json(printed)
    if found is None:  # Go's form of an empty list
        return []
    if not isinstance(found, list):
        raise AnswerError("a list of instances is expected")
    return [_instance(each) for each in found]


def read_object(printed: bytes) -> dict[str, Any]:
    """Parse a JSON Schema. Raises: AnswerError."""
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
    """Return the provider's fault as text; providers in Go encode it in base64."""
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
