"""Lists of the store's records with Nodepool's columns.

Rows are dictionaries with Nodepool's keys, shared by the command line and HTTP. Formats are in cli/ and web/. Source of
columns, order and keys: Nodepool 11, its ``status`` module.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nodelaunch.engine.asking import zuul_facts
from nodelaunch.engine.view import ClusterView, Versioned
from nodelaunch.protocol.hostkeys import ASSURANCE
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import ImageBuild, ImageUpload, Node, NodeRequest, PoolRegistration

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """A list: the title of each key, in the order of columns, and its rows."""

    titles: Mapping[str, str]
    rows: Sequence[Row]

    def only(self, keys: Collection[str]) -> Listing:
        """Return the list with columns *keys* only, in their usual order; without keys, all columns."""
        titles = {key: title for key, title in self.titles.items() if key in keys} if keys else self.titles
        return Listing(titles, self.rows)

    def cells(self, now: float) -> list[list[str]]:
        """Return the rows as text: lists with commas, None as an empty text, times as ages."""
        return [[cell_text(key, row[key], now) for key in self.titles] for row in self.rows]


NODES: Final = {
    "id": "ID", "provider": "Provider", "label": "Label", "server_id": "Server ID", "public_ipv4": "Public IPv4",
    "ipv6": "IPv6", "state": "State", "age": "Age", "locked": "Locked", "pool": "Pool", "hostname": "Hostname",
    "private_ipv4": "Private IPv4", "AZ": "AZ", "username": "Username", "connection_port": "Port",
    "launcher": "Launcher", "allocated_to": "Allocated To", "hold_job": "Hold Job", "comment": "Comment",
    "user_data": "User Data", "driver_data": "Driver Data",
}  # fmt: skip
BRIEF_NODES: Final = ("id", "provider", "label", "server_id", "public_ipv4", "ipv6", "state", "age", "locked")
"""Columns of Nodepool's ``list`` without ``--detail``."""
REQUESTS: Final = {
    "id": "Request ID", "relative_priority": "Priority", "state": "State", "requestor": "Requestor",
    "node_types": "Node Types", "nodes": "Nodes", "declined_by": "Declined By", "event_id": "Event ID",
}  # fmt: skip
LABELS: Final = {"label": "Label"}
UPLOADS: Final = {
    "id": "Build ID", "upload_id": "Upload ID", "provider": "Provider", "image": "Image",
    "external_name": "Provider Image Name", "external_id": "Provider Image ID", "state": "State", "age": "Age",
}  # fmt: skip
BUILDS: Final = {
    "id": "ID", "image": "Image", "builder": "Builder", "formats": "Formats", "state": "State", "age": "Age",
}  # fmt: skip
IMAGES: Final = {
    "image": "Image", "paused": "Paused", "build_request": "Build Request", "build_request_age": "Build Request Age",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at one moment. It is cheap to take, and another thread can make rows of it."""

    nodes: Mapping[NodeId, Versioned[Node]]
    locked_nodes: Collection[NodeId]
    requests: Mapping[RequestId, Versioned[NodeRequest]]
    locked_requests: Collection[RequestId]
    pools: Sequence[Versioned[PoolRegistration]]
    uploads: Mapping[str, Versioned[ImageUpload]]
    builds: Mapping[str, Versioned[ImageBuild]]
    paused_images: Collection[str]
    images: Mapping[str, tuple[float | None, bool]]
    """Images by name: time of the build request in seconds since 1970, and True if the build has started."""
    at: float
    """Seconds since 1970."""


def take_snapshot(view: ClusterView, now: float) -> Snapshot:
    return Snapshot(
        nodes=dict(view.nodes),
        locked_nodes=frozenset(view.locked_nodes),
        requests=dict(view.requests),
        locked_requests=frozenset(view.locked_requests),
        pools=list(view.pools.values()),
        uploads=dict(view.uploads),
        builds=dict(view.builds),
        paused_images=frozenset(view.paused_images),
        images={name: (view.build_requests.get(name), view.is_being_built(name)) for name in view.image_names},
        at=now,
    )


def names_in(found: Snapshot) -> dict[str, set[str]]:
    """Return all names of providers, pools and labels in any record."""
    nodes = [seen.record for seen in found.nodes.values()]
    pools = [seen.record for seen in found.pools]
    requests = [seen.record for seen in found.requests.values()]
    return {
        "provider": {name for name in (*(n.provider for n in nodes), *(p.provider_name for p in pools)) if name},
        "pool": {name for name in (*(n.pool for n in nodes), *(p.name for p in pools)) if name},
        "label": {
            *(label for n in nodes for label in n.type),
            *(label for p in pools for label in p.supported_labels),
            *(label for r in requests for label in r.node_types),
        },
    }


def age_text(seconds: float) -> str:
    """Return days, hours, minutes and seconds, two digits each."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day:02d}:{hour:02d}:{minute:02d}:{second:02d}"


def cell_text(key: str, value: Any, now: float) -> str:
    """Return *value* of column *key* as text. A number in an age column is a time in seconds since 1970."""
    match value:
        case None:
            return ""
        case list() | tuple():
            return ",".join(map(str, value))
        case int() | float() if key == "age" or key.endswith("_age"):
            return age_text(now - value)
        case _:
            return str(value)


# -- the lists ------------------------------------------------------------------------------------------------------


def node_list(found: Snapshot, node_id: str | None = None) -> Listing:
    """Return all nodes, or only the node *node_id*, in the order of ids."""
    ids = sorted(found.nodes) if node_id is None else [each for each in (NodeId(node_id),) if each in found.nodes]
    return Listing(NODES, [_node(found, found.nodes[each].record) for each in ids])


def _node(found: Snapshot, node: Node) -> Row:
    return {
        "id": node.id,
        "provider": node.provider,
        "label": list(node.type),
        "server_id": node.external_id,
        "public_ipv4": node.public_ipv4,
        "ipv6": node.public_ipv6,
        "state": node.state.value,
        "age": age_text(found.at - node.state_time),
        "locked": "locked" if node.id in found.locked_nodes else "unlocked",
        "pool": node.pool,
        "hostname": node.hostname,
        "private_ipv4": node.private_ipv4,
        "AZ": node.az,
        "username": node.username,
        "connection_port": _port(node.connection_port),
        "launcher": node.launcher,
        "allocated_to": node.allocated_to,
        "hold_job": node.hold_job,
        "comment": node.comment,
        "user_data": node.user_data,
        "driver_data": node.driver_data,
    }


def _port(port: Any) -> Any:
    """Hide a port that is not a number: it may hold credentials, as with Kubernetes drivers."""
    try:
        int(port)
    except (ValueError, TypeError):
        return "redacted"
    return port


def request_list(found: Snapshot) -> Listing:
    """Return all node requests, in the order of ids."""
    return Listing(REQUESTS, [_request(found.requests[each].record) for each in sorted(found.requests)])


def _request(request: NodeRequest) -> Row:
    return {
        "id": request.id,
        "relative_priority": request.relative_priority,
        "state": request.state.value,
        "requestor": request.requestor,
        "node_types": list(request.node_types),
        "nodes": list(request.nodes),
        "declined_by": list(request.declined_by),
        "event_id": request.event_id,
    }


def label_list(found: Snapshot) -> Listing:
    """Return the labels that registered pools offer."""
    labels = {label for seen in found.pools for label in seen.record.supported_labels}
    return Listing(LABELS, [{"label": label} for label in sorted(labels)])


def image_list(found: Snapshot) -> Listing:
    """Return the uploads of images to providers."""
    rows = [
        {
            "id": upload.build_id,
            "upload_id": upload.upload_id,
            "provider": upload.provider,
            "image": upload.image,
            "external_name": upload.external_name,
            "external_id": upload.external_id,
            "state": upload.state.value,
            "age": int(upload.state_time),
        }
        for upload in (found.uploads[path].record for path in sorted(found.uploads))
    ]
    return Listing(UPLOADS, rows)


def dib_image_list(found: Snapshot) -> Listing:
    """Return the builds of images."""
    rows = [
        {
            "id": f"{build.image}-{build.build_id}",
            "image": build.image,
            "builder": build.builder,
            "formats": sorted(build.formats.split(",")) if build.formats else [],
            "state": "paused" if build.image in found.paused_images else build.state.value,
            "age": int(build.state_time),
        }
        for build in (found.builds[path].record for path in sorted(found.builds))
    ]
    return Listing(BUILDS, rows)


def image_status(found: Snapshot) -> Listing:
    """Return the pause and the build request of each image."""
    rows = []
    for image, (asked_at, is_begun) in sorted(found.images.items()):
        standing = None if asked_at is None else "building" if is_begun else "pending"
        rows.append({
            "image": image,
            "paused": image in found.paused_images,
            "build_request": standing,
            "build_request_age": None if asked_at is None else int(asked_at),
        })  # fmt: skip
    return Listing(IMAGES, rows)


# -- in full, for programs ------------------------------------------------------------------------------------------


def node_facts(found: Snapshot) -> list[dict[str, Any]]:
    """Return all facts of each node except possible credentials, in the order of ids."""
    return [_node_facts(found, found.nodes[each].record) for each in sorted(found.nodes)]


def _node_facts(found: Snapshot, node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "provider": node.provider,
        "pool": node.pool,
        "label": list(node.type),
        "server_id": node.external_id,
        "interface_ip": node.interface_ip,
        "connection_port": _port(node.connection_port),
        "connection_type": node.connection_type,
        "username": node.username,
        "host_keys": list(node.host_keys),
        "public_ipv4": node.public_ipv4,
        "private_ipv4": node.private_ipv4,
        "public_ipv6": node.public_ipv6,
        "hostname": node.hostname,
        "az": node.az,
        "state": node.state.value,
        "age_s": max(0, round(found.at - node.state_time)),
        "locked": node.id in found.locked_nodes,
        "allocated_to": node.allocated_to,
        "tenant": node.tenant_name,
        "requestor": node.requestor,
        "launcher": node.launcher,
        "hold_job": node.hold_job,
        "hold_expiration": node.hold_expiration,
        "comment": node.comment,
        "user_data": node.user_data,
        "driver_data": node.driver_data,
        "node_properties": node.node_properties,
        "host_key_assurance": (node.node_properties or {}).get(ASSURANCE),
    }


def request_facts(found: Snapshot) -> list[dict[str, Any]]:
    """Return all facts of each request, in the order of ids."""
    return [_request_facts(found, found.requests[each].record) for each in sorted(found.requests)]


def _request_facts(found: Snapshot, request: NodeRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "relative_priority": request.relative_priority,
        "state": request.state.value,
        "age_s": max(0, round(found.at - request.state_time)),
        "requestor": request.requestor,
        "labels": list(request.node_types),
        "nodes": list(request.nodes),
        "declined_by": list(request.declined_by),
        "provider": request.provider,
        "tenant": request.tenant_name,
        "event_id": request.event_id,
        "locked": request.id in found.locked_requests,
        **zuul_facts(request.requestor_data),
    }


BY_NAME: Final[Mapping[str, Callable[[Snapshot], Listing]]] = {
    "node-list": node_list,
    "request-list": request_list,
    "label-list": label_list,
    "image-list": image_list,
    "dib-image-list": dib_image_list,
    "image-status": image_status,
}
"""Lists by Nodepool's names."""
