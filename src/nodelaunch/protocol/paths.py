"""Znode paths below the chroot, built and parsed, and the form of the names in them.

Source: Nodepool 11, its ZooKeeper layer.
"""

from __future__ import annotations

import re
from typing import Final, NewType
from urllib.parse import quote, unquote

RequestId = NewType("RequestId", str)
"""A request's id, ``PPP-SSSSSSSSSS``: a priority of three characters, a dash, ten digits."""
NodeId = NewType("NodeId", str)
"""A node's id: ten digits."""

ROOT: Final = "/nodepool"
REQUESTS: Final = f"{ROOT}/requests"
REQUEST_LOCKS: Final = f"{ROOT}/requests-lock"
NODES: Final = f"{ROOT}/nodes"
COMPONENTS: Final = f"{ROOT}/components"
POOLS: Final = f"{COMPONENTS}/pool"
LAUNCHERS: Final = f"{COMPONENTS}/launcher"
BUILDERS: Final = f"{COMPONENTS}/builder"
IMAGES: Final = f"{ROOT}/images"

OWN_ROOT: Final = "/nodelaunch"
"""The tree of this project alone: Zuul and Nodepool know a znode by its depth below their own root, so nothing may be
added there."""
PRESENCES: Final = f"{OWN_ROOT}/launchers"
KNOWN_POOLS: Final = f"{OWN_ROOT}/pools"
QUESTIONS: Final = f"{OWN_ROOT}/questions"
INVENTORIES: Final = f"{OWN_ROOT}/inventories"
LEDGERS: Final = f"{OWN_ROOT}/limits"
TENANT_LEDGERS: Final = f"{OWN_ROOT}/tenant-limits"
PAUSES: Final = f"{OWN_ROOT}/pauses"

ALWAYS_THERE: Final = (
    REQUESTS,
    REQUEST_LOCKS,
    NODES,
    POOLS,
    LAUNCHERS,
    BUILDERS,
    IMAGES,
    PRESENCES,
    KNOWN_POOLS,
    QUESTIONS,
)
"""Paths that a launcher creates at start if they are missing, as each Nodepool process does."""

NODE_NAME_PREFIX: Final = "np"
"""Prefix of an instance's name, which ends with the node id: 15 characters at most, for Windows."""

MIN_READY_PRIORITY: Final = "900"
CLIENT_PRIORITY: Final = "200"
BACKING_PRIORITY: Final = "100"
MIN_READY_REQUESTOR: Final = "NodePool:min-ready"

METASTATIC: Final = "/nodelaunch/metastatic"
"""The tree of metastatic providers. Peers know znodes below `ROOT` by their depth, so it is not there."""

_CONTENDER: Final = re.compile(r"[^/]*__lock__(-?\d{10})$")
_REQUEST_ID: Final = re.compile(r"[^-/]{3}-\d{10}")


def request(request_id: RequestId) -> str:
    return f"{REQUESTS}/{request_id}"


def new_request(priority: str) -> str:
    """Return the path for a sequential create of a request of *priority* (three characters)."""
    return f"{REQUESTS}/{priority}-"


def request_lock(request_id: RequestId) -> str:
    return f"{REQUEST_LOCKS}/{request_id}"


def node(node_id: NodeId) -> str:
    return f"{NODES}/{node_id}"


NEW_NODE: Final = f"{NODES}/"
"""The path for a sequential create of a node."""


def node_lock(node_id: NodeId) -> str:
    return f"{NODES}/{node_id}/lock"


def contender(directory: str, token: str) -> str:
    """Return the path for a sequential create of a contender below lock *directory*; *token*: 32 hex digits."""
    return f"{directory}/{token}__lock__"


def uploads(image: str, build_id: str, provider: str) -> str:
    return f"{IMAGES}/{image}/builds/{build_id}/providers/{provider}/images"


def known_pool(provider: str, pool: str) -> str:
    return f"{KNOWN_POOLS}/{provider}/{pool}"


def ledger(provider: str) -> str:
    """Return the path of the record whose version grows with each node that is created at a shared provider."""
    return f"{LEDGERS}/{provider}"


def tenant_ledger(tenant: str) -> str:
    """Return the path of the record whose version grows with each node that is created or claimed for a tenant with a
    limit."""
    return f"{TENANT_LEDGERS}/{quote(tenant, safe='').replace('.', '%2E')}"


def pause(kind: str, name: str) -> str:
    """Return the path of the pause of a provider, a pool or a launcher. *kind*: one of these three."""
    return f"{PAUSES}/{kind}:{quote(name, safe='')}"


# -- metastatic providers -------------------------------------------------------------------------------------------


def backing_requestor(provider: str) -> str:
    """Return the requestor of *provider*'s requests, also used in its locks of backing nodes. Source: Nodepool 11."""
    return f"NodePool:metastatic:{provider}"


def metastatic(provider: str) -> str:
    """Return the path of *provider*'s tree."""
    return f"{METASTATIC}/{provider}"


def leases(provider: str) -> str:
    return f"{metastatic(provider)}/backing"


def lease(provider: str, backing: NodeId) -> str:
    return f"{leases(provider)}/{backing}"


def slot(provider: str, backing: NodeId, number: int) -> str:
    """Return the path that exists while the slot is taken, and names the node that took it."""
    return f"{lease(provider, backing)}/{number}"


def claims(provider: str) -> str:
    return f"{metastatic(provider)}/nodes"


def claim(provider: str, node_id: NodeId) -> str:
    return f"{claims(provider)}/{node_id}"


# -- parsing --------------------------------------------------------------------------------------------------------


def build_at(path: str) -> tuple[str, str] | None:
    """Return (image, build id) if *path* is a build record."""
    match path[len(IMAGES) + 1 :].split("/"):
        case [image, "builds", build] if build != "lock":
            return image, build
        case _:
            return None


def image_at(path: str) -> tuple[str, str]:
    """Return the image that *path* is below, and the rest of the path: ``pause`` and ``request-build`` are flags,
    ``builds/lock`` is the lock of the builder of the image."""
    image, _, rest = path[len(IMAGES) + 1 :].partition("/")
    return image, rest


def known_pool_at(path: str) -> tuple[str, str] | None:
    """Return (provider, pool) if *path* is the record of a known pool."""
    match path[len(KNOWN_POOLS) + 1 :].split("/"):
        case [provider, pool]:
            return provider, pool
        case _:
            return None


def pause_at(path: str) -> tuple[str, str] | None:
    """Return (kind, name) of the target if *path* is a pause."""
    kind, found, name = path[len(PAUSES) + 1 :].partition(":")
    return (kind, unquote(name)) if found and is_child(path, PAUSES) else None


def request_id_at(path: str) -> RequestId | None:
    """Return the request's id if *path* is a request's record."""
    return RequestId(path[len(REQUESTS) + 1 :]) if is_child(path, REQUESTS) else None


def node_id_at(path: str) -> NodeId | None:
    """Return the node's id if *path* is a node's record."""
    return NodeId(path[len(NODES) + 1 :]) if is_child(path, NODES) else None


def node_id_of_contender(path: str) -> NodeId | None:
    """Return the node's id if *path* is a contender for a node's lock."""
    node_id, _, rest = path[len(NODES) + 1 :].partition("/lock/")
    return NodeId(node_id) if rest and contender_sequence(rest) is not None else None


def upload_at(path: str) -> tuple[str, str, str, str] | None:
    """Return (image, build id, provider, upload id) if *path* is an upload record."""
    parts = path[len(IMAGES) + 1 :].split("/")
    match parts:
        case [image, "builds", build, "providers", provider, "images", upload] if upload != "lock":
            return image, build, provider, upload
        case _:
            return None


def is_child(path: str, parent: str) -> bool:
    """Return True if *path* lies directly below *parent*."""
    return path.startswith(parent + "/") and "/" not in path[len(parent) + 1 :]


def contender_sequence(name: str) -> str | None:
    """Return the ten digits that order contenders, as text; None if *name* is no contender's.

    Source: kazoo's lock recipe, which ignores all other names.
    """
    match = _CONTENDER.match(name)
    return match.group(1) if match else None


def is_request_id(name: str) -> bool:
    """Return True if *name* can be sorted as a request id: Zuul recognizes one by the dash at index 3."""
    return _REQUEST_ID.fullmatch(name) is not None
