"""The commands that change nodes by hand, with the effects of Nodepool's commands, through operations/nodes.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from nodelaunch.cli.common import client_store, say, say_json, synced_view
from nodelaunch.cli.session import AsJson, CliSession, Given
from nodelaunch.cli.tables import aligned
from nodelaunch.errors import NodelaunchError
from nodelaunch.operations.nodes import GONE_TIMEOUT_S, Operator
from nodelaunch.protocol.records import Node

NodeName = Annotated[str, Parameter(help="Id of the node, such as 0000001234.", metavar="NODE")]
ProviderName = Annotated[str, Parameter(help="Name of the provider.", metavar="PROVIDER")]


@asynccontextmanager
async def _operator(session: CliSession) -> AsyncIterator[Operator]:
    async with client_store(session) as store, synced_view(store) as view:
        yield Operator(store, view)


async def hold(
    node: NodeName,
    /,
    *,
    reason: Annotated[str | None, Parameter(help="Reason, stored as the node's comment.", metavar="TEXT")] = None,
    expires: Annotated[
        int | None,
        Parameter(
            help="Time until the node is deleted; default: max-hold-age.", metavar="SECONDS", validator=Number(gt=0)
        ),
    ] = None,
    force: Annotated[bool, Parameter(help="Hold the node even if it is allocated to a request.")] = False,
    session: Given,
) -> None:
    """Keep a node from being used or deleted, so that it can be examined.

    Exit code: 1 the node does not exist, or is in use.
    """
    async with _operator(session) as operator:
        _show(await operator.hold(node, reason=reason, expires_s=expires, force=force))


async def unhold(
    node: NodeName,
    /,
    *,
    reuse: Annotated[bool, Parameter(help="Offer the node to requests again instead of deleting it.")] = False,
    session: Given,
) -> None:
    """End a hold; the node is deleted, as after use.

    Exit code: 1 the node does not exist, or is not held.
    """
    async with _operator(session) as operator:
        _show(await operator.unhold(node, reuse=reuse))


async def delete(
    node: NodeName,
    /,
    *,
    now: Annotated[bool, Parameter(help="Wait until the node is deleted.")] = False,
    session: Given,
) -> None:
    """Mark a node for deletion by its launcher.

    Exit code: 1 the node does not exist, is in use, or with --now is not deleted in time.
    """
    async with _operator(session) as operator:
        _show(await operator.delete(node))
        if now:
            try:
                await operator.gone(node)
            except TimeoutError:
                raise NodelaunchError(f"node {node} is not deleted after {GONE_TIMEOUT_S:g} s") from None
            say(f"node {node} is deleted")


def _show(node: Node) -> None:
    head = ["ID", "Provider", "Label", "Server ID", "State", "Comment"]
    row = [node.id, node.provider, ",".join(node.type), node.external_id, node.state.value, node.comment]
    say(aligned([head, [str(cell or "") for cell in row]]))


async def info(provider: ProviderName, /, *, as_json: AsJson = False, session: Given) -> None:
    """Show the uploaded images and the nodes of a provider.

    Exit code: 1 the provider has no records, and no running launcher offers it.
    """
    async with _operator(session) as operator:
        found = operator.records_of(provider)
    if as_json:
        nodes = [{"id": node.id, "server_id": node.external_id} for node in found.nodes]
        say_json({"provider": provider, "images": found.uploads, "nodes": nodes})
        return
    images = [
        [image, build, ",".join(uploads)]
        for image, builds in found.uploads.items()
        for build, uploads in builds.items()
    ]
    say(aligned([["Image Name", "Build ID", "Upload IDs"], *images]) if images else "no images")
    say("")
    nodes_of = [[node.id, str(node.external_id or "")] for node in found.nodes]
    say(aligned([["ID", "Server ID"], *nodes_of]) if nodes_of else "no nodes")


async def erase(
    provider: ProviderName,
    /,
    *,
    force: Annotated[bool, Parameter(help="Don't ask for confirmation.")] = False,
    session: Given,
) -> int:
    """Remove the records of a provider that no longer exists; its cloud is not changed.

    Instances that still exist have no owner afterwards. The command refuses a provider that a running launcher serves.
    Exit code: 1 nothing was removed, or the provider has no records.
    """
    async with _operator(session) as operator:
        found = operator.erasable(provider)
        images = sum(len(uploads) for builds in found.uploads.values() for uploads in builds.values())
        what = f"{len(found.nodes)} nodes and {images} uploads of images of provider {provider}"
        if not force and not _agrees(f"Remove the records of {what}? This can't be undone. [y/N] "):
            say("no records were removed")
            return 1
        await operator.erase(provider, found)
        say(f"removed the records of {what}")
    return 0


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False
