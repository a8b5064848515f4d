"""The bodies of the HTTP API: one type for each body, from which the API's description is made too."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from nodelaunch.protocol.hostkeys import ASSURANCE
from nodelaunch.protocol.paths import CLIENT_PRIORITY
from nodelaunch.protocol.records import Node

TTL_S = 300.0
"""Default lifetime of a request and its nodes without a renewal."""
LONGEST_TTL_S = 86_400.0
MOST_LABELS = 100

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Text = Annotated[str, Meta(max_length=1000)]
Seconds = Annotated[int, Meta(ge=1, le=10**9)]
Ttl = Annotated[
    float, Meta(ge=1, le=LONGEST_TTL_S, description="Seconds until the request is released without a renewal.")
]


class NewRequest(Struct, forbid_unknown_fields=True):
    """A request for a node of each label, in this order."""

    labels: Annotated[list[Name], Meta(min_length=1, max_length=MOST_LABELS)]
    ttl_s: Ttl = TTL_S
    priority: Annotated[
        str, Meta(pattern=r"^[0-9]{3}$", description="Three digits; smaller is served first. Zuul: 100, 200, 300.")
    ] = CLIENT_PRIORITY
    relative_priority: Annotated[int, Meta(ge=0, le=1_000_000, description="Smaller is served first.")] = 0
    provider: Annotated[Name | None, Meta(description="The only provider whose nodes are accepted.")] = None
    tenant: Annotated[Name | None, Meta(description="The tenant of the request; for limits of tenants.")] = None
    requestor: Annotated[
        Name | None, Meta(description="The name of the client, in the records of the request and its nodes.")
    ] = None
    requestor_data: Annotated[Any, Meta(description="Any JSON; passed to drivers, shown by explain.")] = None


class Renewal(Struct, forbid_unknown_fields=True):
    """Extend a request by its lifetime, or by another time."""

    ttl_s: Ttl | None = None


class Hold(Struct, forbid_unknown_fields=True):
    """Keep a node from being used or deleted."""

    reason: Annotated[Text | None, Meta(description="Reason, stored as the node's comment.")] = None
    expires_s: Annotated[Seconds | None, Meta(description="Seconds until the node is deleted; null: max-hold-age.")] = (
        None
    )
    force: Annotated[bool, Meta(description="Hold the node even if it is allocated to a request.")] = False


class Unhold(Struct, forbid_unknown_fields=True):
    """End a hold; the node is deleted as after use."""

    reuse: Annotated[bool, Meta(description="Offer the node to requests again.")] = False


class NodeShown(Struct):
    """A node, with the data for a login."""

    id: str
    label: list[str]
    state: str
    provider: str | None
    pool: str | None
    host: Annotated[str | None, Meta(description="Host to connect to.")]
    port: Annotated[Any, Meta(description="A number; with some drivers an object, such as the access to a cluster.")]
    username: str | None
    connection_type: Annotated[str | None, Meta(description="ssh, winrm, ... as Ansible names it.")]
    shell_type: str | None
    python_path: str | None
    host_keys: Annotated[list[str], Meta(description="SSH host keys, '<type> <base64>' each.")]
    host_key_assurance: Annotated[
        str | None, Meta(description="verified or unseen, if the launcher gave the node its keys; else null.")
    ]
    public_ipv4: str | None
    private_ipv4: str | None
    public_ipv6: str | None
    hostname: str | None
    az: str | None
    attributes: dict[str, Any] | None
    node_properties: dict[str, Any] | None
    comment: str | None
    hold_expiration: int | None


class RequestShown(Struct):
    """A request that was made over HTTP."""

    id: str
    state: Annotated[
        str,
        Meta(
            description="requested: waits; pending: a launcher works on it; fulfilled: nodes in use; failed: no "
            "pool can serve it; released: its nodes are returned; expired: not renewed in time; lost: a fault."
        ),
    ]
    version: Annotated[int, Meta(description="Grows with each change of state; for waiting.")]
    labels: list[str]
    priority: str
    relative_priority: int
    provider: str | None
    tenant: str | None
    requestor: str | None
    ttl_s: float
    expires_in_s: Annotated[float, Meta(description="Seconds left; 0 after the end.")]
    declined_by: list[str]
    nodes: Annotated[
        list[NodeShown], Meta(description="In the order of the labels; empty before the request is fulfilled.")
    ]
    detail: Annotated[str | None, Meta(description="Why the request was lost.")]


class RequestExplained(RequestShown):
    """A request with its status and reasons in each pool of this launcher, as in `nodelaunch explain --json`."""

    pools: list[dict[str, Any]]


class RequestList(Struct):
    """All requests made over this launcher's HTTP that have not ended, oldest first."""

    requests: list[RequestShown]


def shown_node(node: Node) -> NodeShown:
    return NodeShown(
        id=node.id,
        label=list(node.type),
        state=node.state.value,
        provider=node.provider,
        pool=node.pool,
        host=node.interface_ip,
        port=node.connection_port,
        username=node.username,
        connection_type=node.connection_type,
        shell_type=node.shell_type,
        python_path=node.python_path,
        host_keys=list(node.host_keys),
        host_key_assurance=(node.node_properties or {}).get(ASSURANCE),
        public_ipv4=node.public_ipv4,
        private_ipv4=node.private_ipv4,
        public_ipv6=node.public_ipv6,
        hostname=node.hostname,
        az=node.az,
        attributes=node.attributes,
        node_properties=node.node_properties,
        comment=node.comment,
        hold_expiration=node.hold_expiration,
    )
