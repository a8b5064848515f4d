"""What goes in and out of the HTTP interface: one type for each body, from which its description is made, too.

What does *not* belong here: what is done (api.py, desk.py), and Nodepool's lists (lists.py).
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from nodelaunch.protocol.hostkeys import ASSURANCE
from nodelaunch.protocol.paths import CLIENT_PRIORITY
from nodelaunch.protocol.records import Node

TTL_S = 300.0
"""How long a request, and then its nodes, last without being renewed, by default."""
LONGEST_TTL_S = 86_400.0
MOST_LABELS = 100

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Text = Annotated[str, Meta(max_length=1000)]
Seconds = Annotated[int, Meta(ge=1, le=10**9)]
Ttl = Annotated[float, Meta(ge=1, le=LONGEST_TTL_S, description="Seconds until it is released if it is not renewed.")]


class NewRequest(Struct, forbid_unknown_fields=True):
    """A node for each of the labels, in their order."""

    labels: Annotated[list[Name], Meta(min_length=1, max_length=MOST_LABELS)]
    ttl_s: Ttl = TTL_S
    priority: Annotated[
        str, Meta(pattern=r"^[0-9]{3}$", description="Three digits; smaller is served first. Zuul: 100, 200, 300.")
    ] = CLIENT_PRIORITY
    relative_priority: Annotated[int, Meta(ge=0, le=1_000_000, description="Smaller is served first.")] = 0
    provider: Annotated[Name | None, Meta(description="The only provider whose nodes will do.")] = None
    tenant: Annotated[Name | None, Meta(description="On whose behalf; for limits of tenants.")] = None
    requestor: Annotated[Name | None, Meta(description="Who asks, in the records of the request and its nodes.")] = None
    requestor_data: Annotated[Any, Meta(description="Any JSON; handed to drivers, shown by explain.")] = None


class Renewal(Struct, forbid_unknown_fields=True):
    """From now on for as long again, or for another time."""

    ttl_s: Ttl | None = None


class Hold(Struct, forbid_unknown_fields=True):
    """Keep a node from being used or deleted."""

    reason: Annotated[Text | None, Meta(description="Becomes the node's comment.")] = None
    expires_s: Annotated[Seconds | None, Meta(description="Delete it after this long; null: max-hold-age.")] = None
    force: Annotated[bool, Meta(description="Also where the node is promised to a request.")] = False


class Unhold(Struct, forbid_unknown_fields=True):
    """End a hold; the node is deleted as after use."""

    reuse: Annotated[bool, Meta(description="Offer the node to requests again.")] = False


class NodeShown(Struct):
    """A node, with all that a login needs."""

    id: str
    label: list[str]
    state: str
    provider: str | None
    pool: str | None
    host: Annotated[str | None, Meta(description="Where to connect to.")]
    port: Annotated[Any, Meta(description="A number; of some drivers an object, such as the access to a cluster.")]
    username: str | None
    connection_type: Annotated[str | None, Meta(description="ssh, winrm, ... as Ansible names it.")]
    shell_type: str | None
    python_path: str | None
    host_keys: Annotated[list[str], Meta(description="SSH host keys, '<type> <base64>' each.")]
    host_key_assurance: Annotated[
        str | None, Meta(description="verified or unseen, where the node was given its keys; else null.")
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
    """A request that was made here."""

    id: str
    state: Annotated[
        str,
        Meta(
            description="requested: waits; pending: a launcher works on it; fulfilled: its nodes are yours; failed: no "
            "pool can serve it; released: given back; expired: not renewed in time; lost: gone without being asked."
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
    expires_in_s: Annotated[float, Meta(description="Seconds left; 0 when it has ended.")]
    declined_by: list[str]
    nodes: Annotated[list[NodeShown], Meta(description="In the order of the labels; none before it is fulfilled.")]
    detail: Annotated[str | None, Meta(description="Why it was lost.")]


class RequestExplained(RequestShown):
    """The same, with how it stands with each pool of this launcher and why, as `nodelaunch explain --json` has it."""

    pools: list[dict[str, Any]]


class RequestList(Struct):
    """All requests that were made here and have not ended, the oldest first."""

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
